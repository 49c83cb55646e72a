"""Connections, heads and answers on the wire: what a decent client may do, and no client can make the server do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from starlette.types import Message, Scope, Send

from chunkyd.protocol.messages import MAX_HEAD_BYTES
from chunkyd.server import connection, web
from chunkyd.server.connection import Application
from chunkyd.server.receive import Body
from chunkyd.server.web import Web
from tests.server.bench import until
from tests.server.process import Client, ServerProcess, Session, wait_until
from tests.server.test_wire import statuses

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def session(client: Client) -> Session:
    """A session of half a mebibyte."""
    return client.initiate(os.urandom(512 << 10), uuid.uuid4().hex.encode())


def test_requests_one_behind_the_other(client: Client, session: Session) -> None:
    """All in one go: each is answered, in order, and a body is nobody's request."""
    body = HEALTH * 3
    session = client.initiate(body, uuid.uuid4().hex.encode())
    received = client.raw(HEALTH + session.raw_head(0, len(body)) + body + HEALTH.replace(b"GET", b"HEAD") + LAST)
    assert statuses(received) == [200, 200, 200, 200]
    assert received.count(b'{"status":"ok"}') == 2 and received.count(b'{"status":"complete"}') == 1


def test_one_byte_at_a_time(client: Client, session: Session, server: ServerProcess) -> None:
    """A head, a body and the next request in single bytes are what they are."""
    sent = session.raw_head(0, 40) + session.data[:40] + LAST
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sent:
            connection.sendall(bytes([byte]))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert statuses(received) == [200, 200]
    assert session.status().json["missingRanges"] == [[40, (512 << 10) - 1]]


def test_what_is_said_after_the_last_request_is_still_answered(client: Client, session: Session) -> None:
    """A client that ends its side once it has said all gets its answers, of chunks too."""
    received = client.raw(session.raw_head(0, 1000) + session.data[:1000] + HEALTH, end=True)
    assert statuses(received) == [200, 200]


def test_an_old_client_is_answered_and_left(client: Client) -> None:
    """HTTP/1.0: one answer, and the connection ends, whatever else was said."""
    old = HEALTH.replace(b"1.1", b"1.0")
    for request in (old, old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")):
        received = client.raw(request + HEALTH)
        assert statuses(received) == [200] and b"connection: close" in received.lower()


def test_where_a_request_goes(client: Client) -> None:
    """With the host before the path, as proxies are asked, it is the same; without a path it is nothing."""
    assert statuses(client.raw(LAST.replace(b"/healthz", b"http://localhost/healthz?x=1"))) == [200]
    assert statuses(client.raw(LAST.replace(b"/healthz", b"http://localhost"))) == [404]
    assert statuses(client.raw(LAST.replace(b"/healthz", b"http://localhost?x=/1"))) == [404]
    assert statuses(client.raw(b"\r\n\r\n" + LAST)) == [200]
    assert statuses(client.raw(LAST.replace(b"GET /healthz", b"CONNECT localhost:1"))) == [400]


def test_who_is_asked_is_clear(client: Client) -> None:
    """One Host, and where the target names one it is that."""
    host = b"Host: localhost\r\n"
    assert statuses(client.raw(LAST.replace(host, b""))) == [400]
    assert statuses(client.raw(LAST.replace(host, host * 2))) == [400]
    assert statuses(client.raw(LAST.replace(b"/healthz", b"http://evil.example/healthz"))) == [403]


def sockets(server: ServerProcess) -> int:
    """How many it has open."""
    assert server.process is not None
    found = 0
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(each).startswith("socket:")
    return found


@pytest.mark.parametrize(
    "begin", [b"CONNECT x HTTP/1.1\r\n", b"GET nope HTTP/1.1\r\n", b"nonsense\r\n", b"x" * 2 * MAX_HEAD_BYTES]
)
def test_what_is_no_request_leaves_nothing_behind(client: Client, server: ServerProcess, begin: bytes) -> None:
    """Refused once, whatever it expects; its connection is gone as soon as the client's end is."""
    before, errors = sockets(server), len(server.lines("error"))
    for _ in range(20):
        received = client.raw(begin + b"Host: localhost\r\nExpect: 100-continue\r\n\r\n")
        assert statuses(received) in ([400], [431])
    wait_until(lambda: sockets(server) <= before)
    assert len(server.lines("error")) == errors


@pytest.mark.parametrize(("length", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1, 431)])
def test_how_long_a_head_may_be(client: Client, length: int, status: int) -> None:
    """To the byte; and the refusal is a document that says so."""
    begin, end = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ", b"\r\n\r\n"
    received = client.raw(begin + b"x" * (length - len(begin) - len(end)) + end)
    assert statuses(received) == [status]
    assert status == 200 or b'"type":"about:blank"' in received


def test_a_client_that_was_not_asked_for_its_body_may_leave_it(client: Client, session: Session) -> None:
    """An answer in place of 100 Continue ends the connection: nobody can know whether a body follows."""
    assert session.put(0, 1000).status == 200
    received = client.raw(session.raw_head(0, 1000, Expect="100-continue"), wait=5)
    assert statuses(received) == [200] and b"connection: close" in received.lower()


def test_half_a_head_does_not_hold_up_a_stop(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Silent connections, half heads and half bodies: the server ends at once, and well."""
    running = ServerProcess(tmp_path_factory.mktemp("stop")).start()
    try:
        session = running.client().initiate(b"x" * 1000)
        with contextlib.ExitStack() as open_ones:
            for said in (b"", b"GET /heal", HEALTH):
                connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
                connection.sendall(said)
            half = open_ones.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
            half.sendall(session.raw_head(0, 1000) + b"x" * 999)
            wait_until(lambda: running.lines("GET /healthz 200"))
            assert running.terminate() == 0
            assert half.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert "Traceback" not in running.log()
    finally:
        running.kill()


# With an application of the test's own


@contextlib.asynccontextmanager
async def open_web(app: Application, most: int = 10, unread: int = 1 << 20) -> AsyncIterator[tuple[Web, int]]:
    """A listener's connections, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        served = Web(app, listener, most, unread)
        served.start()
        try:
            yield served, int(listener.getsockname()[1])
        finally:
            await served.stop(5)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """On the loop that serves, with a deadline."""

    async def timed() -> None:
        async with asyncio.timeout(20):
            await scenario()

    uvloop.run(timed())


async def answer(send: Send, body: bytes = b"ok", status: int = 200) -> None:
    """Of an application."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def test_beyond_so_many_connections_none_is_accepted() -> None:
    """The next waits until one of them has gone, and is served then."""

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send)

    async def scenario() -> None:
        async with open_web(app, most=2) as (served, port):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await until(lambda: len(served._open) == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LAST)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await reader.read(1)
            silent[0][1].close()
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            for _, each in (*silent, (reader, writer)):
                each.close()
            await until(lambda: not served._open)

    run(scenario)


def test_who_takes_no_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large answer that is not read does not keep its connection for ever."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    ended = asyncio.Event()

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send, bytes(32 << 20))
        ended.set()

    async def scenario() -> None:
        async with open_web(app) as (served, port):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(HEALTH)
                await ended.wait()
                await until(lambda: not served._open)

    run(scenario)


def test_who_sends_for_ever_after_a_refusal_is_cut() -> None:
    """What is thrown away has a limit, even where it keeps coming; the answer came first."""
    unread = 1 << 20

    async def app(scope: Scope, body: Body, send: Send) -> None:
        raise AssertionError("this is no request")

    async def scenario() -> None:
        async with open_web(app, unread=unread) as (served, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(bytes(unread))
                    await writer.drain()
            await until(lambda: not served._open)

    run(scenario)


def test_who_says_nothing_more_is_waited_for_as_long_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer that ends its connection, and after one to what is no request: single bytes do not keep it."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (served, port):
            for request in (LAST, b"nonsense\r\n\r\n"):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                await until(lambda: len(served._open) == 1)
                for _ in range(50):
                    if not served._open:
                        break
                    writer.write(b"x")
                    await asyncio.sleep(0.05)
                assert not served._open
                writer.close()

    run(scenario)


def test_a_stop_lets_an_answer_go_out() -> None:
    """Who is still sending is read, and sees its answer; who is idle is closed at once."""
    answered = asyncio.Event()

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send)
        answered.set()

    async def scenario() -> None:
        async with open_web(app) as (served, port):
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            await answered.wait()
            stopping = asyncio.create_task(served.stop(5))
            assert await idle.read() == b""
            assert not stopping.done()
            writer.write(b"defghij")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            await stopping
            for each in (idle_writer, writer):
                each.close()

    run(scenario)


def test_a_body_goes_where_it_is_wanted() -> None:
    """Whatever the buffers' sizes and the pieces' it comes in: every byte in its place, and no more than the body's."""
    data = os.urandom(300_000)
    seen: list[bytes] = []

    async def app(scope: Scope, body: Body, send: Send) -> None:
        got = bytearray()
        sizes = iter((1, 2, 3, 1000, 1, 100_000, 65_536))
        while body.left:
            buffer = bytearray(next(sizes, 77_777))
            got += buffer[: await body.fill(memoryview(buffer))]
        assert body.taken == len(got)
        seen.append(bytes(got))
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
            stream = head + data + head + data + LAST
            for start in range(0, len(stream), 31_337):
                writer.write(stream[start : start + 31_337])
                await writer.drain()
                await asyncio.sleep(0)
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 3
            writer.close()
        assert seen == [data, data, b""]

    run(scenario)


def test_a_slow_client_of_an_unread_body_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as some of it comes; the next request is answered."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(connection, "RUBBISH_BYTES", 1)

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            for _ in range(10):
                await asyncio.sleep(0.1)
                writer.write(b"x")
            writer.write(LAST)
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
            writer.close()

    run(scenario)


def test_a_lack_of_descriptors_is_said_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many come and go meanwhile; then connections are taken again."""

    async def app(scope: Scope, body: Body, send: Send) -> None:
        await answer(send)

    class Lacking:
        """A listener whose process has no descriptors left."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.lacks = True

        def fileno(self) -> int:
            return self._listener.fileno()

        def accept(self) -> object:
            if self.lacks:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

    async def scenario() -> None:
        monkeypatch.setattr(web, "_LACK_SECONDS", 0.5)
        async with open_web(app) as (served, port):
            served._listener = lacking = Lacking(served._listener)  # type: ignore[assignment]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LAST)
            await until(lambda: bool(caplog.records))
            for _ in range(5):
                served.start()
                await asyncio.sleep(0)
            assert len(caplog.records) == 1
            lacking.lacks = False
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    run(scenario)


def test_a_cut_body_is_short() -> None:
    """Who waits for bytes hears that there are no more, and how many there were."""
    found: list[tuple[int, int]] = []

    async def app(scope: Scope, body: Body, send: Send) -> None:
        found.append((await body.fill(memoryview(bytearray(100))), body.left))
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (served, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 60)
            await writer.drain()
            writer.close()
            await until(lambda: bool(found) and not served._open)
        assert found == [(60, 40)]

    run(scenario)


def test_a_wait_that_is_given_up_takes_nothing_more() -> None:
    """What comes after it goes to whoever asks next, not to the buffer of before."""
    came = asyncio.Event()
    seen: list[bytes] = []

    async def app(scope: Scope, body: Body, send: Send) -> None:
        first, second = bytearray(10), bytearray(6)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await body.fill(memoryview(first))
        came.set()
        await body.fill(memoryview(second))
        seen.extend((bytes(first), bytes(second)))
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\nabcd")
            await came.wait()
            writer.write(b"efghij")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()
        assert seen == [b"abcd" + bytes(6), b"efghij"]

    run(scenario)


def test_an_application_that_fails_ends_the_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next connection is served."""

    async def app(scope: Scope, body: Body, send: Send) -> None:
        if scope["path"] == "/fail":
            raise ValueError("broken")
        await answer(send)

    async def scenario() -> None:
        async with open_web(app) as (served, port):
            for request, wanted in ((HEALTH.replace(b"/healthz", b"/fail"), b""), (LAST, b"HTTP/1.1 200 OK")):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                assert (await reader.read()).startswith(wanted)
                writer.close()
            await until(lambda: not served._open)

    run(scenario)
    assert "a connection failed" in caplog.text


def test_an_answer_in_parts() -> None:
    """Its head goes out once, and every part behind it."""

    async def app(scope: Scope, body: Body, send: Send) -> None:
        parts: list[Message] = [
            {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"6")]},
            {"type": "http.response.body", "body": b"abc", "more_body": True},
            {"type": "http.response.body", "body": b"def"},
        ]
        for part in parts:
            await send(part)

    async def scenario() -> None:
        async with open_web(app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LAST)
            received = await reader.read()
            assert received.count(b"HTTP/1.1 201 Created") == 1 and received.endswith(b"\r\n\r\nabcdef")
            writer.close()

    run(scenario)
