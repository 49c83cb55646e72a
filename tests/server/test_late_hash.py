"""The late-hash extension of the server: what may come when, over real connections, and what a kill leaves of it."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from chunkyd.errors import Problem
from chunkyd.protocol.late_hash import PATH_DECLARE
from chunkyd.protocol.messages import EMPTY_FILE_HASH
from tests.server.batches import entry, results, send
from tests.server.bench import Bench, run, until
from tests.server.process import Client, ServerProcess, Session, serving, sha, wait_until

VERSION = "v1.LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564"
OTHER = "v1." + "0" * 43
DATA = os.urandom(1000)


def fresh() -> bytes:
    """A path no other test uses."""
    return uuid.uuid4().hex.encode()


def late(client: Client, path: bytes | None = None, data: bytes = DATA, **more: object) -> Session:
    """A session without a hash."""
    session = client.initiate(data, path or fresh(), **{"file_version": VERSION, **more})
    assert session.reply.status == 201, session.reply.body
    return session


def test_the_way_of_a_file(client: Client, server: ServerProcess) -> None:
    """Bytes first, the hash last: incomplete until it is declared, then complete, and the bytes are there."""
    path = fresh()
    session = late(client, path, modified_ns=5_000_000_000, mode=0o640)
    assert (session.reply.json["status"], session.reply.json["missingRanges"]) == ("incomplete", [[0, 999]])
    assert session.put(0, 600).json == {"status": "incomplete"}
    assert session.put(600, 1000).json == {"status": "incomplete"}
    standing = session.status().json
    assert (standing["status"], standing["missingRanges"]) == ("incomplete", [])
    assert session.put(0, 600).json == {"status": "incomplete"}
    assert not server.file(path).exists()
    assert session.declare().json == {"status": "complete"}
    assert server.file(path).read_bytes() == DATA
    assert server.file(path).stat().st_mtime_ns == 5_000_000_000
    assert session.declare().json == {"status": "complete"}
    assert session.declare(sha(b"other")).problem == "invalid-file-hash"
    assert session.end().json == {"result": "ended"}


def test_the_hash_may_come_before_the_last_chunk(client: Client, server: ServerProcess) -> None:
    """Declared while chunks are on their way it is kept, and the last one completes the file."""
    path = fresh()
    session = late(client, path)
    session.put(500, 1000)
    assert session.declare().json == {"status": "incomplete"}
    assert session.declare().json == {"status": "incomplete"}
    assert session.status().json["missingRanges"] == [[0, 499]]
    assert session.put(0, 500).json == {"status": "complete"}
    assert server.file(path).read_bytes() == DATA


def test_another_hash_than_before(client: Client) -> None:
    """The first hash stands, and what is stored stays."""
    session = late(client)
    session.put(0, 10)
    assert session.declare().status == 200
    assert session.declare(sha(b"other")).problem == "invalid-file-hash"
    assert session.status().json["missingRanges"] == [[10, 999]]
    assert session.put(10, 1000).json == {"status": "complete"}


def test_a_hash_of_other_bytes(client: Client, server: ServerProcess) -> None:
    """The session is dead, to the declaration and to all that follows; nothing is published, and an end cancels it."""
    path = fresh()
    session = late(client, path)
    session.put(0, 1000)
    wrong = sha(b"other")
    assert session.declare(wrong).problem == "digest-mismatch"
    for reply in (session.declare(wrong), session.declare(), session.status(), session.put(0, 10)):
        assert reply.problem == "digest-mismatch"
    assert not server.file(path).exists()
    assert session.end().json == {"result": "cancelled"}


def test_the_same_in_a_session_that_began_with_its_hash(client: Client) -> None:
    """To declare what is known changes nothing; anything else is refused."""
    session = client.initiate(os.urandom(1000), fresh())
    assert session.declare().json == {"status": "incomplete"}
    assert session.declare(sha(b"other")).problem == "invalid-file-hash"
    assert session.put(0, 1000).json == {"status": "complete"}
    assert session.declare().json == {"status": "complete"}


def test_the_version_stands_for_the_hash(client: Client) -> None:
    """Every request carries it, before and after the declaration; another one, or the hash itself, is refused."""
    session = late(client)

    def refused_with_others() -> None:
        for key in (OTHER, sha(DATA), "v1.short", "nonsense"):
            other = Session(client, DATA, key, session.reply)
            for reply in (other.status(), other.put(0, 10), other.declare(), other.end()):
                assert (reply.status, reply.problem) == (422, "invalid-file-hash"), key

    refused_with_others()
    session.declare()
    refused_with_others()
    assert session.put(0, 1000).json == {"status": "complete"}
    refused_with_others()
    assert session.status().json["status"] == "complete"


def test_nothing_is_complete_before_its_hash_is_known(client: Client, server: ServerProcess) -> None:
    """Not the version that stands there already, under this path or another, nor a file of no bytes."""
    path = fresh()
    client.upload(DATA, path)
    for where in (path, fresh()):
        session = late(client, where)
        assert (session.reply.json["status"], session.reply.json["missingRanges"]) == ("incomplete", [[0, 999]])
        assert session.declare().json == {"status": "incomplete"}
        assert session.put(0, 1000).json == {"status": "complete"}
        assert server.file(where).read_bytes() == DATA
    empty = late(client, path, b"")
    assert (empty.reply.json["status"], empty.reply.json["missingRanges"]) == ("incomplete", [])
    assert server.file(path).read_bytes() == DATA
    assert empty.declare(EMPTY_FILE_HASH).json == {"status": "complete"}
    assert server.file(path).read_bytes() == b""
    assert late(client, path, b"").declare().json == {"status": "complete"}
    assert late(client, path, b"").declare(sha(DATA)).problem == "digest-mismatch"


def test_an_end_without_a_hash(client: Client, server: ServerProcess) -> None:
    """All bytes are there, but nobody has said of what: the end cancels, and nothing is published."""
    path = fresh()
    session = late(client, path)
    session.put(0, 1000)
    assert session.end().json == {"result": "cancelled"}
    assert session.declare().problem == "invalid-session-id"
    assert not server.file(path).exists()


def test_the_same_initiate_again(client: Client) -> None:
    """Same key, same version: the same session; another version, or the file's hash, is another upload."""
    path = fresh()
    first = late(client, path, key="k")
    assert late(client, path, key="k").id == first.id
    assert late(client, path, key="k", file_version=OTHER).id != first.id
    first.put(0, 1000)
    first.declare()
    again = late(client, path, key="k")
    assert (again.id, again.reply.json["status"]) == (first.id, "complete")
    first.end()
    over = client.initiate(DATA, path, file_version=VERSION, key="k")
    assert over.reply.problem == "session-expired"


def test_what_is_malformed(client: Client) -> None:
    """An initiate that names no version, or two; a declaration of nothing; a late hash in a batch."""
    bodies = {
        b'{"totalBytes": 6, "path": "f"}': "malformed-request",
        b'{"fileVersion": "%s", "totalBytes": 6}' % VERSION.encode(): "malformed-request",
        b'{"fileVersion": "v1.short", "totalBytes": 6, "path": "f"}': "invalid-file-hash",
        b'{"fileVersion": "%s", "totalBytes": 6, "path": "f"}' % sha(DATA).encode(): "invalid-file-hash",
    }
    for body, name in bodies.items():
        reply = client.request("POST", "/initiateUploadSession", body, Content_Type="application/json")
        assert reply.problem == name, body
    session = late(client)
    for body in (b"", b"{}", b"[]", b'{"fileHash": 1}', DATA):
        reply = client.request("POST", PATH_DECLARE, body, Content_Type="application/json", **session.keys)
        assert reply.problem == "malformed-request", body
    for wrong in ("", "nonsense", VERSION, sha(DATA).upper()):
        assert session.declare(wrong).problem == "invalid-file-hash"
    assert session.declare(Content_Type="text/plain").status == 415
    assert session.declare(Content_Digest="crc32c=:AAAAAA==:").problem == "chunk-digest-mismatch"
    assert client.request("GET", PATH_DECLARE, **session.keys).status == 405
    assert results(send(client, entry(fresh(), DATA, file_hash="", file_version=VERSION))) == ["malformed-request"]
    assert session.put(0, 10).status == 200


def test_the_order_of_checks(client: Client, session_of_another: Session) -> None:
    """Session before key before headers before body before the hash's form before the hash itself."""
    session = late(client)
    assert session_of_another.declare("nonsense").problem == "invalid-session-id"
    wrong_key = Session(client, DATA, OTHER, session.reply)
    assert wrong_key.declare("nonsense", Content_Type="text/plain").problem == "invalid-file-hash"
    assert session.declare("nonsense", Content_Type="text/plain").status == 415
    session.put(0, 1000)
    session.declare(sha(b"other"))
    assert session.declare("nonsense").problem == "invalid-file-hash"
    assert session.declare(sha(b"a third")).problem == "digest-mismatch"


@pytest.fixture
def session_of_another(client: Client) -> Session:
    """One that nobody knows."""
    session = client.initiate(DATA, fresh())
    session.end()
    return session


@pytest.mark.parametrize("stored", [0, 400, 1000])
@pytest.mark.parametrize("declared", [False, True])
def test_killed_in_every_state_it_goes_on(tmp_path: Path, stored: int, declared: bool) -> None:
    """With none, some or all of its bytes, with or without its hash: a session is after a kill what it was before."""
    with serving(tmp_path) as server:
        session = server.client().initiate(DATA, b"f", file_version=VERSION, key="k")
        if stored:
            session.put(0, stored)
        if declared:
            session.declare()
        before = session.status().json
        server.kill()
        server.start()
        session.client = server.client()
        assert session.status().json == before
        same = session.client.initiate(DATA, b"f", file_version=VERSION, key="k")
        assert (same.id, same.reply.json["status"]) == (session.id, before["status"])
        if declared:
            assert session.declare(sha(b"other")).problem == "invalid-file-hash"
        if stored < 1000:
            session.put(stored, 1000)
        session.declare()
        wait_until(lambda: session.status().json["status"] == "complete")
        assert server.file("f").read_bytes() == DATA
        server.kill()
        server.start()
        session.client = server.client()
        assert session.status().json["status"] == "complete"
        assert session.declare().json == {"status": "complete"}
        assert session.end().json == {"result": "ended"}


def test_sessions_are_listed_by_what_names_them(tmp_path: Path) -> None:
    """The administrator sees the version where there is no hash yet."""
    with serving(tmp_path) as server:
        session = late(server.client(), b"f")
        listed = server.command("sessions", "list", "--json").stdout
        assert f'"{VERSION}"' in listed and '"fileHash": null' in listed
        session.declare()
        assert sha(DATA) in server.command("sessions", "list", "--json").stdout


# Without HTTP, where two things are to happen at once


def test_two_hashes_at_once() -> None:
    """One is recorded; the other is told so, and the file is that of the one."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_version=VERSION)
        found = await asyncio.gather(
            *(bench.uploads.declare(session, hash_) for hash_ in (sha(DATA), sha(b"other"))), return_exceptions=True
        )
        problems = [each.name for each in found if isinstance(each, Problem)]
        assert problems == ["invalid-file-hash"]
        await bench.close()

    run(scenario)


def test_a_hash_that_cannot_be_recorded() -> None:
    """A full disk: the session is as it was, the answer says so, and later it is recorded."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_version=VERSION)
        assert await bench.put(session, DATA) == "incomplete"
        bench.catalog.full = {"declare"}
        with pytest.raises(Problem, match="no room") as caught:
            await bench.uploads.declare(session, sha(DATA))
        assert caught.value.name == "storage-full"
        assert (session.status(), session.hash_known) == ("incomplete", False)
        bench.catalog.full = set()
        assert await bench.uploads.declare(session, sha(DATA)) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_session_that_waits_for_its_hash_expires() -> None:
    """Its bytes are all there, but its client is not: it goes like any other, and its space with it."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_version=VERSION)
        await bench.put(session, DATA)
        bench.clock.advance(bench.limits.session_ttl + 1)
        await bench.uploads.tick()
        with pytest.raises(Problem) as caught:
            await bench.uploads.find("u", session.session_id)
        assert caught.value.name == "session-expired"
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_an_end_while_the_hash_is_recorded() -> None:
    """The session is gone, whichever the catalog takes first; nothing is published."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_version=VERSION)
        await bench.put(session, DATA)
        declared, ended = await asyncio.gather(
            bench.uploads.declare(session, sha(DATA)), bench.uploads.end(session), return_exceptions=True
        )
        assert isinstance(declared, Problem) and declared.name == "invalid-session-id"
        assert ended == "cancelled"
        await until(lambda: not list(bench.storage.partials()))
        assert bench.content() is None
        await bench.close()

    run(scenario)
