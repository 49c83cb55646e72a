"""The batch extension, by a real server: many small files in one request, and an answer for each."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from chunkyd.protocol import batch
from chunkyd.protocol.batch import encode_entry
from chunkyd.protocol.digests import content_digest, format_content_digest
from tests.server.batches import MODIFIED, entry, results, send
from tests.server.process import Client, ServerProcess, serving, sha


@pytest.fixture
def folder() -> bytes:
    """A folder nobody else publishes in."""
    return uuid.uuid4().hex.encode()


def partials(server: ServerProcess) -> list[str]:
    """What is in progress on the disk."""
    return os.listdir(server.data / "partial")


def test_the_server_says_that_it_takes_batches(client: Client) -> None:
    """OPTIONS names the extension."""
    assert batch.EXTENSION in client.request("OPTIONS", "/uploadChunk").json["extensions"]


def test_many_files_arrive(client: Client, server: ServerProcess, folder: bytes) -> None:
    """A few hundred files in several folders, odd names, an empty one: each byte for byte, with time and mode."""
    names = [b"%d/%d" % (number % 7, number) for number in range(300)] + [b"new\nline", b"\xff\xfe", "é".encode() * 127]
    files = {folder + b"/" + name: os.urandom(index * 3 % 5000) for index, name in enumerate(names)}
    reply = send(client, *(entry(path, content, mode=0o640) for path, content in files.items()))
    assert results(reply) == ["complete"] * len(files)
    for path, content in files.items():
        published = server.file(path)
        assert published.read_bytes() == content
        assert published.stat().st_mtime_ns == MODIFIED and published.stat().st_mode & 0o777 == 0o640
    assert partials(server) == []


def test_a_batch_that_comes_late(client: Client, server: ServerProcess, folder: bytes) -> None:
    """Repeated as it was, it publishes nothing: what is newer keeps its place; with a key of its own it is meant."""
    path = folder + b"/f"
    older, newer = entry(path, b"older"), entry(path, b"newer")
    assert results(send(client, older, Idempotency_Key="b1")) == ["complete"]
    assert results(send(client, newer, Idempotency_Key="b2")) == ["complete"]
    late = send(client, older, Idempotency_Key="b1")
    assert (late.status, late.problem) == (410, "session-expired")
    assert server.file(path).read_bytes() == b"newer"
    assert partials(server) == []
    assert results(send(client, older, Idempotency_Key="b3")) == ["complete"]
    assert server.file(path).read_bytes() == b"older"
    assert results(send(client, newer, Idempotency_Key="b1")) == ["complete"], "another body is another batch"
    assert results(send(client, older)) == results(send(client, older)) == ["complete"], "no key, no memory"


def test_a_batch_that_was_held_up(client: Client, server: ServerProcess, folder: bytes) -> None:
    """One of its files has a newer version by now: nothing of it counts, and what is meant is sent once more."""
    path, other = folder + b"/f", folder + b"/g"
    assert results(send(client, entry(path, b"newer", client="box", order=2))) == ["complete"]
    older = entry(path, b"older", client="box", order=1), entry(other, b"other", client="box", order=1)
    assert send(client, *older).problem == "session-expired"
    assert server.file(path).read_bytes() == b"newer" and not server.file(other).exists()
    assert partials(server) == []
    assert results(send(client, older[1])) == ["complete"]


def test_a_batch_of_nothing(client: Client) -> None:
    """No files, no answers, no error."""
    assert results(send(client)) == []


def test_one_bad_file_spoils_no_other(client: Client, server: ServerProcess, folder: bytes) -> None:
    """Every way in which one file can be wrong, in the middle of good ones: its own problem, in its own place."""
    client.upload(b"deep", folder + b"/taken/deep")
    good = [entry(folder + b"/good%d" % number, b"good") for number in range(8)]
    bad = [
        (entry(folder + b"/hash", b"x", file_hash=sha(b"y")), "digest-mismatch"),
        (entry(folder + b"/short", b"x", total_bytes=2), "malformed-request"),
        (entry(folder + b"/none", b"x", file_hash="0"), "invalid-file-hash"),
        (encode_entry(b"{}", 3) + b"abc", "malformed-request"),
        (encode_entry(b"\xff", 0), "malformed-request"),
        (entry(folder + b"/taken", b"x"), "path-conflict"),
        (entry(folder + b"/good0", b"twice"), "malformed-request"),
        (entry(folder + b"/huge", b"", total_bytes=2**60, offered=True), "file-too-large"),
    ]
    mixed = [part for pair in zip(good, (raw for raw, _ in bad), strict=True) for part in pair]
    assert results(send(client, *mixed)) == [word for _, name in bad for word in ("complete", name)]
    assert all(server.file(folder + b"/good%d" % number).read_bytes() == b"good" for number in range(8))
    assert server.file(folder + b"/taken/deep").read_bytes() == b"deep"
    assert sorted(os.listdir(server.file(folder))) == sorted([*(f"good{number}" for number in range(8)), "taken"])
    assert partials(server) == []


def test_again_costs_nothing_and_changes_nothing(client: Client, server: ServerProcess, folder: bytes) -> None:
    """The same batch once more: complete, by the very files that stand there; only a new time is taken over."""
    paths = [folder + b"/%d" % number for number in range(5)]
    send(client, *(entry(path, path) for path in paths))
    before = [server.file(path).stat().st_ino for path in paths]
    reply = send(client, *(entry(path, path, modified_ns=MODIFIED + 1) for path in paths))
    assert results(reply) == ["complete"] * 5
    assert [server.file(path).stat().st_ino for path in paths] == before
    assert {server.file(path).stat().st_mtime_ns for path in paths} == {MODIFIED + 1}


def test_offers(client: Client, server: ServerProcess, folder: bytes) -> None:
    """Of what the user has nothing travels, under another path too, as a copy of its own; the rest is asked for."""
    content = os.urandom(1000)
    assert results(send(client, entry(folder + b"/a", content))) == ["complete"]
    offers = [entry(folder + b"/a", content, offered=True), entry(folder + b"/b", content, offered=True)]
    reply = send(client, *offers, entry(folder + b"/c", b"unknown", offered=True), entry(folder + b"/d", b""))
    assert results(reply) == ["complete", "complete", "wanted", "complete"]
    a, b = server.file(folder + b"/a"), server.file(folder + b"/b")
    assert b.read_bytes() == content and a.stat().st_ino != b.stat().st_ino
    assert not server.file(folder + b"/c").exists() and server.file(folder + b"/d").read_bytes() == b""


def test_an_offer_of_bytes_that_have_changed_on_the_disk(client: Client, server: ServerProcess, folder: bytes) -> None:
    """A kept version that is no longer what it was answers no offer."""
    content = os.urandom(1000)
    send(client, entry(folder + b"/a", content))
    server.file(folder + b"/a").write_bytes(bytes(1000))
    assert results(send(client, entry(folder + b"/b", content, offered=True))) == ["wanted"]


def test_the_later_version_stays(client: Client, server: ServerProcess, folder: bytes) -> None:
    """A session opened before a batch and finished after it leaves the batch's file alone."""
    path = folder + b"/f"
    old = client.initiate(os.urandom(1000), path)
    assert results(send(client, entry(path, b"newer"))) == ["complete"]
    assert old.put(0, 1000).status == 200
    assert old.status().json["status"] == "complete"
    assert server.file(path).read_bytes() == b"newer"


@pytest.mark.parametrize(
    ("headers", "body", "status", "name"),
    [
        ({"Content_Digest": "crc32c=:AAAAAA==:"}, None, 400, "chunk-digest-mismatch"),
        ({"Content_Digest": "md5=:AAAAAA==:"}, None, 400, "malformed-request"),
        ({"Content_Type": "application/octet-stream"}, None, 415, "about:blank"),
        ({}, b"\0\0\0", 400, "malformed-request"),
        ({}, b"\xff" * 8, 400, "malformed-request"),
        ({}, bytes(2 << 20), 413, "chunk-too-large"),
    ],
)
def test_what_is_refused_as_a_whole(
    client: Client,
    server: ServerProcess,
    folder: bytes,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
    name: str,
) -> None:
    """A body that is not what was announced, or no batch at all: nothing of it counts, and nothing is left of it."""
    files = [entry(folder + b"/%d" % number, os.urandom(900)) for number in range(100)]
    reply = send(client, *files, *([body] if body is not None else []), **headers)
    assert (reply.status, reply.problem) == (status, name)
    assert not server.file(folder).exists()
    assert partials(server) == []


def test_a_cut_body_leaves_no_trace(client: Client, server: ServerProcess, folder: bytes) -> None:
    """The connection ends before the body does: nothing is published, no partial stays."""
    body = b"".join(entry(folder + b"/%d" % number, bytes(900)) for number in range(100))
    lines = [
        f"POST {batch.PATH_BATCH} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {batch.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        f"Content-Digest: {format_content_digest({'crc32c': content_digest(body)})}",
    ]
    client.raw("\r\n".join([*lines, "", ""]).encode() + body[:-1], wait=1.0, end=True)
    assert results(send(client, entry(folder + b"-after", b"x"))) == ["complete"]
    assert not server.file(folder).exists()
    assert partials(server) == []


def test_old_versions_are_kept_where_asked(tmp_path: Path) -> None:
    """existing: keep: another version stays beside the new one, the same version is not kept twice."""
    with serving(tmp_path, existing="keep") as server:
        client = server.client()
        send(client, entry(b"f", b"one"), entry(b"g", b"same"))
        assert results(send(client, entry(b"f", b"two"), entry(b"g", b"same"))) == ["complete"] * 2
        found = {name: (server.file("") / name).read_bytes() for name in os.listdir(server.file(""))}
        assert found == {"f": b"two", "f.~1~": b"one", "g": b"same"}


def test_an_allowance_ends_within_a_batch(tmp_path: Path) -> None:
    """What is beyond the user's allowance is refused file by file, and a small one behind it still fits."""
    with serving(tmp_path, limits={"reserve": "0B", "per_user": {"local": "1000B"}}) as server:
        files = [entry(b"%d" % number, bytes([number]) * size) for number, size in enumerate((600, 500, 400))]
        assert results(send(server.client(), *files)) == ["complete", "quota-exceeded", "complete"]
        assert sorted(os.listdir(server.file(""))) == ["0", "2"]
        assert partials(server) == []


def test_never_across_users(tmp_path: Path) -> None:
    """Without a token nothing; with one, another user's bytes answer no offer."""
    with serving(tmp_path, auth="tokens") as server:
        assert send(server.client(), entry(b"f", b"x")).problem == "unauthorized"
        tokens = {user: server.command("user", "add", user).stdout.splitlines()[-1] for user in ("ann", "bob")}
        secret = os.urandom(1000)
        assert results(send(server.client(tokens["ann"]), entry(b"f", secret))) == ["complete"]
        assert results(send(server.client(tokens["bob"]), entry(b"f", secret, offered=True))) == ["wanted"]


def test_what_is_known_survives_a_kill(tmp_path: Path) -> None:
    """After the answer, kill -9 and a start: the same version is known, and needs no byte."""
    with serving(tmp_path) as server:
        files = {b"d/%d" % number: os.urandom(500) for number in range(50)}
        send(server.client(), *(entry(path, content) for path, content in files.items()))
        server.kill()
        server.start()
        reply = send(server.client(), *(entry(path, content, offered=True) for path, content in files.items()))
        assert results(reply) == ["complete"] * 50
        assert server.command("verify").returncode == 0
