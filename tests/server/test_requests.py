"""Every request and error of the protocol over a real connection to a real process."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from chunkyd.protocol.digests import content_digest, format_content_digest
from chunkyd.protocol.messages import Initiate, encode_initiate
from chunkyd.protocol.problems import TABLE
from tests.server.process import Client, Reply, ServerProcess, Session, sha, wait_until

DATA = os.urandom(1000)


def fresh() -> bytes:
    """A path no other test uses."""
    return uuid.uuid4().hex.encode()


@pytest.fixture
def session(client: Client) -> Session:
    """A session of a thousand bytes."""
    return client.initiate(os.urandom(1000), fresh())


def check(reply: Reply, name: str, status: int | None = None) -> dict[str, object]:
    """The reply is this problem, as the table has it."""
    assert reply.problem == name, reply.body
    kind = TABLE[name]
    document: dict[str, object] = reply.json
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["cache-control"] == "no-store"
    assert (document["title"], document["action"], document["retryable"]) == (kind.title, kind.action, kind.retryable)
    assert reply.status == document["status"] == (status or kind.status)
    assert document["detail"]
    return document


def blank(reply: Reply, status: int) -> None:
    """The reply is about:blank with this status."""
    assert (reply.status, reply.json["type"], reply.json["status"]) == (status, "about:blank", status)


def test_options_tells_the_limits(client: Client) -> None:
    """`OPTIONS *` and on the chunk's path: version, digests, limits, the extensions, no CORS grant."""
    for path in ("*", "/uploadChunk"):
        reply = client.request("OPTIONS", path)
        assert (reply.status, reply.headers["chunky-version"]) == (200, "1")
        assert reply.json == {
            "digests": ["crc32c", "sha-256"],
            "maxChunkBytes": 1 << 20,
            "maxFileBytes": 1 << 40,
            "extensions": ["batch", "late-hash"],
        }
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_health_and_readiness(client: Client) -> None:
    """Both answer 200 while all is well."""
    assert client.request("GET", "/healthz").status == client.request("GET", "/readyz").status == 200


def test_initiate_replies_as_promised(client: Client) -> None:
    """201 with all members; the whole file is missing."""
    reply = client.initiate(os.urandom(1000), fresh()).reply
    document = reply.json
    assert reply.status == 201
    assert set(document) == {
        "sessionId",
        "ttlSeconds",
        "expiresAt",
        "chunkBytes",
        "maxChunkBytes",
        "status",
        "missingRanges",
    }
    assert len(document["sessionId"]) >= 22 and document["ttlSeconds"] == 432000
    assert (document["status"], document["missingRanges"]) == ("incomplete", [[0, 999]])
    assert document["maxChunkBytes"] == 1 << 20 and document["expiresAt"].endswith("Z")


def test_the_way_of_a_file(client: Client, server: ServerProcess) -> None:
    """Chunks out of order, status between, complete at the last, published with time and mode, ended, ended again."""
    path = b"d/" + fresh()
    data = os.urandom(1000)
    session = client.initiate(data, path, modified_ns=1_234_567_890_123_456_789, mode=0o666)
    assert session.put(600, 1000).json == {"status": "incomplete"}
    status = session.status().json
    assert (status["status"], status["missingRanges"], status["totalBytes"]) == ("incomplete", [[0, 599]], 1000)
    assert session.put(0, 600).json == {"status": "complete"}
    assert session.put(0, 600).json == {"status": "complete"}
    file = server.file(path)
    assert file.read_bytes() == data
    assert (file.stat().st_mtime_ns, file.stat().st_mode & 0o7777) == (1_234_567_890_123_456_789, 0o644)
    assert session.status().json["missingRanges"] == []
    assert session.end().json == {"result": "ended"}
    check(session.end(), "session-not-found")
    check(session.status(), "invalid-session-id")
    assert file.read_bytes() == data


def test_without_a_path_the_hash_is_the_name(client: Client, server: ServerProcess) -> None:
    """The file is published under its hash."""
    client.upload(DATA, None)
    assert server.file(sha(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("path", [b"new\nline", "ümläut/😀".encode(), b"\xff\xfe/\x80", b"x" * 255, b"-rf", b"a b"])
def test_names_of_all_kinds(client: Client, server: ServerProcess, path: bytes) -> None:
    """Newlines, emoji, bytes that are not UTF-8, 255 bytes: they arrive as they are."""
    data = os.urandom(10)
    client.upload(data, path)
    assert server.file(path).read_bytes() == data


def test_request_ids_are_echoed(client: Client) -> None:
    """A plain one comes back; a strange one is replaced by the server's own."""
    assert client.request("GET", "/healthz", Chunky_Request_Id="abc-1").headers["chunky-request-id"] == "abc-1"
    for strange in ("a" * 129, "a b", "é"):
        assert client.request("GET", "/healthz", Chunky_Request_Id=strange).headers["chunky-request-id"] != strange
    assert client.request("GET", "/nowhere", Chunky_Request_Id="x").headers["chunky-request-id"] == "x"


def test_what_the_table_does_not_name(client: Client, session: Session) -> None:
    """404 path, 405 method, 415 type, 413 JSON, 431 head: about:blank with the HTTP title."""
    blank(client.request("GET", "/nowhere"), 404)
    blank(client.request("GET", "/uploadStatus/"), 404)
    blank(client.request("GET", "/uploadChunk"), 405)
    blank(client.request("POST", "/initiateUploadSession", b"{}", Content_Type="text/plain"), 415)
    blank(client.request("POST", "/initiateUploadSession", b" " * 70_000, Content_Type="application/json"), 413)
    blank(session.put(0, 10, Content_Type="text/plain"), 415)
    blank(client.request("GET", "/healthz", X_Long="x" * 17_000), 431)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"fileHash": 1, "totalBytes": 1}',
        b'{"x":' + b"[" * 60_000,
        b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        json.dumps({"fileHash": "0" * 64, "totalBytes": -1}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 2**63}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "path": "../x"}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "path": "/x"}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "path": "x", "pathBytes": "eA=="}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "mode": 512}).encode(),
        json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "modifiedAt": "yesterday"}).encode(),
    ],
)
def test_malformed_initiates(client: Client, body: bytes) -> None:
    """Each is malformed-request, and nothing is made."""
    check(client.request("POST", "/initiateUploadSession", body, Content_Type="application/json"), "malformed-request")


def test_unknown_members_are_ignored(client: Client) -> None:
    """A later version's members do no harm."""
    body = json.dumps({"fileHash": "0" * 64, "totalBytes": 1, "fromTheFuture": [1]}).encode()
    reply = client.request("POST", "/initiateUploadSession", body, Content_Type="application/json; charset=utf-8")
    assert reply.status == 201


def test_initiates_that_are_refused(client: Client) -> None:
    """invalid-file-hash, file-too-large, digest-mismatch for no bytes."""
    check(client.initiate(b"x", fresh(), file_hash="X" * 64).reply, "invalid-file-hash")
    body = json.dumps({"fileHash": "0" * 64, "totalBytes": (1 << 40) + 1}).encode()
    check(client.request("POST", "/initiateUploadSession", body, Content_Type="application/json"), "file-too-large")
    check(client.initiate(b"", fresh(), file_hash="0" * 64).reply, "digest-mismatch")


def test_an_empty_file_is_complete_at_initiate(client: Client, server: ServerProcess) -> None:
    """Status complete, nothing missing, the file is there."""
    path = fresh()
    reply = client.initiate(b"", path).reply
    assert (reply.json["status"], reply.json["missingRanges"]) == ("complete", [])
    assert server.file(path).read_bytes() == b""


def test_the_same_initiate_again(client: Client) -> None:
    """With the same Idempotency-Key and body: the same session; with another key: another."""
    path = fresh()
    first = client.initiate(DATA[:500], path, key="k1")
    assert client.initiate(DATA[:500], path, key="k1").id == first.id
    assert client.initiate(DATA[:500], path, key="k2").id != first.id
    assert client.initiate(DATA[:499], path, key="k1").id != first.id
    assert client.initiate(DATA[:500], path, key="k1", client="box", order=7).id == first.id, (
        "the order is no part of it"
    )


def test_an_initiate_that_comes_late(client: Client, server: ServerProcess) -> None:
    """Repeated after its session has ended, complete or cancelled, it is refused: a newer version keeps its place."""
    path = fresh()
    older, newer, other = os.urandom(500), os.urandom(600), os.urandom(700)
    first = client.initiate(older, path, key="k1")
    first.put(0, len(older))
    assert first.end().json["result"] == "ended"
    cancelled = client.initiate(other, path, key="k2")
    assert cancelled.end().json["result"] == "cancelled"
    second = client.initiate(newer, path, key="k3")
    check(client.initiate(older, path, key="k1").reply, "session-expired")
    assert second.put(0, len(newer)).json["status"] == "complete"
    check(client.initiate(older, path, key="k1").reply, "session-expired")
    check(client.initiate(other, path, key="k2").reply, "session-expired")
    assert server.file(path).read_bytes() == newer
    assert client.initiate(newer, path, key="k4").reply.json["status"] == "complete"


def test_an_initiate_that_was_held_up(client: Client, server: ServerProcess) -> None:
    """It comes for the first time after a newer one of its client for its path: refused, even if it needs no byte."""
    path, newer = fresh(), os.urandom(600)
    session = client.initiate(newer, path, client="box", order=12)
    check(client.initiate(b"", path, client="box", order=10).reply, "session-expired")
    session.put(0, len(newer))
    session.end()
    check(client.initiate(b"", path, client="box", order=11).reply, "session-expired")
    assert server.file(path).read_bytes() == newer
    other = client.initiate(newer, path + b"2", client="box", order=1)
    assert other.reply.json["status"] == "complete", "another path has an order of its own"
    assert client.initiate(b"", path, client="other", order=1).reply.json["status"] == "complete", (
        "so has another client"
    )


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"Chunky_Session": "0" * 32}, "invalid-session-id", 404),
        ({"Chunky_Session": "../../../etc"}, "invalid-session-id", 404),
        ({"Chunky_Session": None}, "malformed-request", 400),
        ({"Chunky_File_Hash": "0" * 64}, "invalid-file-hash", 422),
        ({"Chunky_File_Hash": "xyz"}, "invalid-file-hash", 422),
        ({"Chunky_File_Hash": None}, "malformed-request", 400),
        ({"Content_Range": None}, "malformed-request", 400),
        ({"Content_Range": "bytes 9-0/1000"}, "malformed-request", 400),
        ({"Content_Range": "bytes 0-9/*"}, "malformed-request", 400),
        ({"Content_Range": "octets 0-9/1000"}, "malformed-request", 400),
        ({"Content_Range": "bytes 0-9/1001"}, "chunk-out-of-bounds", 422),
        ({"Content_Range": "bytes 995-1004/1000"}, "chunk-out-of-bounds", 422),
        ({"Content_Range": "bytes 0-8/1000"}, "chunk-length-mismatch", 400),
        ({"Content_Range": "bytes 0-10/1000"}, "chunk-length-mismatch", 400),
        ({"Content_Digest": None}, "malformed-request", 400),
        ({"Content_Digest": "unknown=:AAAA:"}, "malformed-request", 400),
        ({"Content_Digest": "crc32c=:AAAA:"}, "malformed-request", 400),
        ({"Content_Digest": "crc32c=:AAAAAA==:"}, "chunk-digest-mismatch", 400),
    ],
)
def test_refused_chunks(session: Session, changes: dict[str, str | None], name: str, status: int) -> None:
    """Each mistake in a chunk's head gets its own problem; afterwards the right chunk is taken."""
    check(session.put(0, 10, **changes), name, status)
    assert session.status().json["missingRanges"] == [[0, 999]]
    assert session.put(0, 10).status == 200


def test_every_known_digest_must_match(session: Session) -> None:
    """Two right ones are fine, one wrong of two is not, an unknown one beside a known one is ignored."""
    part = session.data[:10]
    both = {name: content_digest(part, name) for name in ("crc32c", "sha-256")}
    assert session.put(0, 10, Content_Digest=format_content_digest(both)).status == 200
    both["sha-256"] = bytes(32)
    check(session.put(10, 20, Content_Digest=format_content_digest(both)), "chunk-digest-mismatch")
    good = format_content_digest({"crc32c": content_digest(session.data[10:20])})
    assert session.put(10, 20, Content_Digest=f"md5=:AAAA:, {good}").status == 200


def test_a_chunk_too_large(client: Client) -> None:
    """413 with the limit; the rest of a big body does not become a request."""
    session = client.initiate(os.urandom((1 << 20) + 10), fresh())
    document = check(session.put(0, (1 << 20) + 1), "chunk-too-large")
    assert document["maxChunkBytes"] == 1 << 20
    assert session.put(0, 1 << 20).status == 200


def test_the_order_of_checks(client: Client, session: Session) -> None:
    """With everything wrong at once, each mended mistake shows the next one, in the protocol's order."""
    wrong: dict[str, str | None] = {
        "Chunky_Session": "0" * 32,
        "Chunky_File_Hash": "0" * 64,
        "Content_Range": None,
        "Content_Digest": "crc32c=:AAAAAA==:",
    }

    def put(body: bytes = b"12345", **mended: str | None) -> str:
        wrong.update(mended)
        return session.put(0, 10, body, **wrong).problem

    assert put() == "invalid-session-id"
    assert put(Chunky_Session=session.id) == "invalid-file-hash"
    assert put(Chunky_File_Hash=session.file_hash) == "malformed-request"
    assert put(Content_Range=f"bytes 0-{2 << 20}/{3 << 20}") == "chunk-out-of-bounds"
    assert put(Content_Range="bytes 0-9/1000") == "chunk-length-mismatch"
    assert put(body=b"0123456789") == "chunk-digest-mismatch"
    assert session.put(0, 10).status == 200
    assert session.put(0, 10, b"12345", **wrong).json == {"status": "incomplete"}, "stored comes before length"


def test_size_comes_after_bounds_and_before_the_rest(client: Client) -> None:
    """A chunk outside the file is out of bounds even when it is too large as well."""
    session = client.initiate(os.urandom(3 << 20), fresh())
    assert session.put(0, 10, Content_Range=f"bytes 0-{4 << 20}/{3 << 20}").problem == "chunk-out-of-bounds"
    assert session.put(0, 10, Content_Range=f"bytes 0-{2 << 20}/{3 << 20}").problem == "chunk-too-large"


def test_wrong_bytes_as_a_whole(client: Client, server: ServerProcess) -> None:
    """digest-mismatch to the last chunk, then to every status and chunk; end cancels; nothing is published."""
    path = fresh()
    session = client.initiate(os.urandom(100), path, file_hash=sha(b"something else"))
    check(session.put(0, 100), "digest-mismatch")
    check(session.status(), "digest-mismatch")
    check(session.put(0, 10), "digest-mismatch")
    assert not server.file(path).exists()
    assert session.end().json == {"result": "cancelled"}
    check(session.end(), "session-not-found")


def test_end_cancels_an_unfinished_upload(client: Client, server: ServerProcess, session: Session) -> None:
    """Space freed, nothing published; its chunks and status know it no more."""
    session.put(0, 10)
    check(client.request("POST", "/endUpload", **{**session.keys, "Chunky_File_Hash": "0" * 64}), "invalid-file-hash")
    assert session.end().json == {"result": "cancelled"}
    check(session.put(0, 10), "invalid-session-id")
    assert not (server.data / "partial" / session.id).exists()


def test_a_folder_in_the_way(client: Client, server: ServerProcess) -> None:
    """path-conflict, and nothing in the folder is touched."""
    path = fresh()
    client.upload(DATA, path + b"/kept")
    session = client.initiate(b"12345", path)
    check(session.put(0, 5), "path-conflict")
    check(session.status(), "path-conflict")
    assert server.file(path + b"/kept").read_bytes() == DATA


def test_no_file_outside_the_users_folder(client: Client, server: ServerProcess) -> None:
    """A symbolic link among the published is an old version, and is never followed."""
    outside = server.data.parent / "outside"
    outside.mkdir(exist_ok=True)
    path = fresh()
    link = server.file(path)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    client.upload(DATA[:50], path + b"/x")
    assert not list(outside.iterdir())
    assert server.file(path + b"/x").read_bytes() == DATA[:50]


def test_the_log_has_one_line_for_each_request(client: Client, server: ServerProcess, session: Session) -> None:
    """With ID, user, the session's first eight characters, range, status; never the whole session ID."""
    session.put(0, 10, Chunky_Request_Id="logged-1")
    line = wait_until(lambda: server.lines("request=logged-1 "))[-1]
    for part in ("PATCH /uploadChunk 200", "user=local", f"session={session.id[:8]} ", "range=0-9/1000", "body=10"):
        assert part in line
    session.put(0, 10, Chunky_File_Hash="0" * 64, Chunky_Request_Id="logged-2")
    assert "problem=invalid-file-hash" in wait_until(lambda: server.lines("request=logged-2 "))[-1]
    assert session.id not in server.log()


def test_an_initiate_that_was_changed_on_its_way(client: Client) -> None:
    """Where its digest is given, it is checked before a word is believed: the client is to send it again."""
    body = encode_initiate(Initiate(sha(b"x"), 1, fresh()))
    digest = format_content_digest({"crc32c": content_digest(body)})
    for changed in (body[:-1] + b"]", body.replace(b"totalBytes", b"totalBxtes"), body[:20] + b"0" + body[21:]):
        reply = client.request(
            "POST", "/initiateUploadSession", changed, Content_Type="application/json", Content_Digest=digest
        )
        check(reply, "chunk-digest-mismatch")
