"""Bytes on the wire that no decent client sends: what follows a refused body is never read as a request."""

from __future__ import annotations

import os
import socket
import time
import uuid

import pytest

from tests.server.process import Client, ServerProcess, Session, read_all, wait_until

SMUGGLED = b"GET /healthz?smuggled HTTP/1.1\r\nHost: localhost\r\nChunky-Request-Id: smuggled\r\n\r\n"


@pytest.fixture
def session(client: Client) -> Session:
    """A session of half a mebibyte."""
    return client.initiate(os.urandom(512 << 10), uuid.uuid4().hex.encode())


def statuses(received: bytes) -> list[int]:
    """The status of every answer in what came back."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding : chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4, 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
    ],
)
def test_ambiguous_lengths_never_smuggle(client: Client, session: Session, lines: bytes) -> None:
    """One refusal, the connection closed, and nothing behind it answered."""
    head = session.raw_head(0, 4).replace(b"Content-Length: 4\r\n", lines)
    received = client.raw(head + b"0\r\n\r\n" + SMUGGLED, wait=1.0)
    assert len(statuses(received)) <= 1 and b"smuggled" not in received
    assert all(400 <= status < 500 for status in statuses(received))
    assert session.status().json["missingRanges"] == [[0, (512 << 10) - 1]]


def test_a_transfer_encoding_is_411(client: Client, session: Session) -> None:
    """Lengths are declared: malformed-request with status 411."""
    head = session.raw_head(0, 4).replace(b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n")
    received = client.raw(head + b"4\r\nabcd\r\n0\r\n\r\n", wait=1.0)
    assert statuses(received) == [411] and b"malformed-request" in received


@pytest.mark.parametrize("name", ["Chunky-Session", "Chunky-File-Hash", "Content-Range", "Content-Digest"])
def test_doubled_headers_on_the_wire(client: Client, session: Session, name: str) -> None:
    """The same header twice is malformed-request, even with equal values."""
    head = session.raw_head(0, 4)
    line = next(line for line in head.split(b"\r\n") if line.startswith(name.encode()))
    received = client.raw(head.replace(line, line + b"\r\n" + line.lower()) + session.data[:4] + SMUGGLED, wait=1.0)
    assert statuses(received) == [400] and b"malformed-request" in received and b"smuggled" not in received


_REQUESTS = [
    "GET /uploadStatus",
    "POST /endUpload",
    "POST /initiateUploadSession",
    "POST /uploadBatch",
    "OPTIONS *",
    "OPTIONS /uploadChunk",
    "GET /healthz",
    "GET /readyz",
]


def asked(session: Session, what: str, lines: bytes) -> bytes:
    """A request as bytes, with the two keys and these lines in its head, and a small body where it takes one."""
    keys = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in session.keys.items())
    return f"{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{keys}".encode() + lines + b"\r\n"


@pytest.mark.parametrize("what", _REQUESTS)
@pytest.mark.parametrize(
    "line", [b"Chunky-Request-Id: a\r\n", b"Content-Range: bytes 0-0/1\r\n", b"Content-Digest: crc32c=:AAAAAA==:\r\n"]
)
def test_no_request_has_a_header_twice(client: Client, session: Session, what: str, line: bytes) -> None:
    """What must be clear is refused when doubled, in every request, whether it is needed there or not."""
    received = client.raw(asked(session, what, line + line.lower()))
    assert statuses(received) == [400] and b"malformed-request" in received
    assert session.status().status == 200


@pytest.mark.parametrize("what", _REQUESTS)
def test_no_request_has_a_transfer_encoding(client: Client, session: Session, what: str) -> None:
    """411 for each of them, with the connection closed and nothing behind the body answered."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    received = client.raw(asked(session, what, b"Transfer-Encoding: chunked\r\n") + chunks + SMUGGLED)
    assert statuses(received) == [411] and b"malformed-request" in received and b"smuggled" not in received
    assert session.status().status == 200


def test_what_follows_a_refused_body_is_no_request(client: Client, session: Session) -> None:
    """Refused by its head, with a request hidden in the body and another behind it: neither is answered."""
    head = session.raw_head(0, len(SMUGGLED), Chunky_File_Hash="0" * 64)
    received = client.raw(head + SMUGGLED + SMUGGLED, wait=1.0)
    assert statuses(received) == [422] and b"connection: close" in received.lower()
    assert b"smuggled" not in received


def test_a_body_longer_than_its_range_is_no_request(client: Client, session: Session) -> None:
    """Content-Length above the range: refused, closed, nothing stored."""
    received = client.raw(session.raw_head(0, 4, length=4 + len(SMUGGLED)) + b"abcd" + SMUGGLED, wait=1.0)
    assert statuses(received) == [400] and b"chunk-length-mismatch" in received and b"smuggled" not in received
    assert session.status().json["missingRanges"] == [[0, (512 << 10) - 1]]


def test_a_cut_body_leaves_no_trace(client: Client, session: Session) -> None:
    """The connection ends in the middle of a body: nothing counts, and the range is free at once."""
    client.raw(session.raw_head(0, 1000) + session.data[:999], wait=0.3, end=True)
    wait_until(lambda: session.put(0, 1000).status == 200)
    assert session.status().json["missingRanges"] == [[1000, (512 << 10) - 1]]


def test_a_refusal_reaches_a_client_that_is_still_sending(
    client: Client, session: Session, server: ServerProcess
) -> None:
    """A slow sender of a refused chunk gets the whole answer, not a reset."""
    size = 256 << 10
    head = session.raw_head(0, size, Chunky_File_Hash="0" * 64)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head)
        for start in range(0, size, 16 << 10):
            connection.sendall(session.data[start : start + (16 << 10)])
            time.sleep(0.01)  # a slow link, not a wait
        received = read_all(connection, 5)
    assert statuses(received) == [422] and b"invalid-file-hash" in received


def test_an_early_answer_is_there_before_the_body(client: Client, session: Session, server: ServerProcess) -> None:
    """A client that looks finds the refusal after the head alone, and one that expects 100 is not asked for more."""
    for extra in ({}, {"Expect": "100-continue"}):
        head = session.raw_head(0, 1000, Chunky_File_Hash="0" * 64, **extra)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(head)
            assert connection.recv(65536).startswith(b"HTTP/1.1 422 ")


def test_expect_continue_is_answered_for_a_good_chunk(client: Client, session: Session, server: ServerProcess) -> None:
    """100 Continue once the head is accepted, then the body, then 200."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(session.raw_head(0, 1000, Expect="100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(session.data[:1000])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_already_stored_chunk_is_answered_from_its_head(client: Client, session: Session) -> None:
    """The same chunk again is 200 for one that sends it whole, and its connection goes on."""
    assert session.put(0, 300 << 10).status == 200
    for _ in range(3):
        reply = session.put(0, 300 << 10)
        assert (reply.status, reply.json) == (200, {"status": "incomplete"})


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"PATCH /uploadChunk HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"PATCH /uploadChunk HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(500)) + b"\r\n",
        b"GET /uploadStatus HTTP/1.1\r\nHost: localhost\r\nChunky-Session: \xff\xfe\r\n\r\n",
        b"GET /%ff%00/../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_garbage_does_no_harm(client: Client, garbage: bytes) -> None:
    """Whatever it is, it is refused or dropped, and the server goes on."""
    received = client.raw(garbage, wait=0.5)
    assert all(400 <= status < 600 for status in statuses(received))
    assert client.request("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: evil.example\r\n",
        b"Host: localhost\r\nOrigin: http://evil.example\r\n",
        b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"",
    ],
)
def test_an_open_server_is_closed_to_web_pages(client: Client, lines: bytes) -> None:
    """Foreign Host, Origin or site, for every path: refused."""
    for line in (b"GET /healthz", b"OPTIONS *", b"POST /initiateUploadSession"):
        received = client.raw(line + b" HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n", wait=2)
        assert statuses(received)[0] in (400, 403), received


def test_two_clients_share_one_session(server: ServerProcess) -> None:
    """Both send all chunks at once, in opposite orders: each is stored or in progress, and the file is whole."""
    import threading

    data = os.urandom(3 << 20)
    path = uuid.uuid4().hex.encode()
    mine = server.client().initiate(data, path)
    starts = list(range(0, len(data), 128 << 10))
    seen: list[str] = []

    def send(order: list[int]) -> None:
        theirs = Session(server.client(), data, mine.file_hash, mine.reply)
        for start in order:
            while True:
                reply = theirs.put(start, start + (128 << 10))
                seen.append(reply.problem or "stored")
                if reply.status == 200:
                    break
                assert reply.problem == "chunk-in-progress" and int(reply.headers["retry-after"]) >= 1

    threads = [threading.Thread(target=send, args=(order,)) for order in (starts, starts[::-1], starts, starts[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: mine.status().json["status"] == "complete")
    assert server.file(path).read_bytes() == data
