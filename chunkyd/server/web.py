"""HTTP/1.1 for the application: connections, heads, bodies and answers. llhttp parses the heads.

- A head holds at most 16 KiB, comes within 30 s, and is parsed by itself: the parser never sees a body, and nothing
  that follows a body is taken for a part of it.
- A body is read where its reader wants it (`Body.fill`), by the kernel straight into the reader's buffer. While nobody
  asks for it nothing is read: what was sent stays with the kernel, and in the end with the client.
- A connection serves one request after the other. What an answer has left of a body is read and thrown away, as long as
  it keeps coming: closed with bytes unread a connection is reset, and a client that is still sending would never see
  the answer. One that was told `Connection: close` is told so by the connection as well, which ends on our side first.
- Beyond so many connections none is accepted: the others wait in the listener's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from starlette.types import Message, Scope, Send

from chunkyd.protocol.messages import MAX_HEAD_BYTES, STALL_SECONDS
from chunkyd.protocol.problems import CONTENT_TYPE, blank_document
from chunkyd.server.receive import Body, fill_in_time

HEAD_SECONDS = 30.0  # for a head, and so for a connection that has nothing to say
LINGER_SECONDS = 5.0  # for a client to end its side
HANDSHAKE_SECONDS = 30.0
RUBBISH_BYTES = 16 << 10
_ENDLESS = 1 << 63  # a body of no declared length: every request refuses it
_ACCEPT_AT_ONCE = 64
_LACK_SECONDS = 1.0  # until the next try, where the system had no room for a connection
_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ITS_OWN = frozenset(  # errors of one connection, which ended before it was accepted (accept(2))
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)

Application = Callable[[Scope, Body, Send], Awaitable[None]]

log = logging.getLogger("chunkyd.server")


class Web:
    """The connections of one listener, `most` of them at a time; belongs to the event loop that runs.

    `unread`: bytes, of a body that its request did not read, that are read and thrown away.
    """

    def __init__(
        self, app: Application, listener: socket.socket, most: int, unread: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self.app = app
        self.unread = unread
        self.tls = tls
        self._listener = listener
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._open: set[_Connection] = set()
        self._accepting = False
        self._again: asyncio.TimerHandle | None = None  # when the system had no room for a connection
        self._stopped = False

    def start(self) -> None:
        """Take connections, where there is room for one more."""
        if not (self._accepting or self._stopped or self._again or self._is_full()):
            self._loop.add_reader(self._listener, self._accept)
            self._accepting = True

    async def stop(self, seconds: float) -> None:
        """Take no more, and close those there are; so long, at most, for what is written to go out."""
        self._stopped = True
        self._pause()
        if self._again is not None:
            self._again.cancel()
        for task in self._beginning:
            task.cancel()
        for connection in list(self._open):
            connection.close()
        deadline = self._loop.time() + seconds
        while self._open and self._loop.time() < deadline:
            await asyncio.sleep(0.01)

    def _is_full(self) -> bool:
        return len(self._open) + len(self._beginning) >= self._most

    def _pause(self) -> None:
        if self._accepting:
            self._loop.remove_reader(self._listener)
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if self._is_full():
                self._pause()
                return
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _ITS_OWN:
                    continue
                log.error("no connection can be accepted, trying again: %s", error)
                self._pause()
                self._again = self._loop.call_later(_LACK_SECONDS, self._try_again)
                return
            task = self._loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _try_again(self) -> None:
        self._again = None
        self.start()

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(
                lambda: _Connection(self),
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self.tls is not None else None,
            )
        except OSError as error:  # a handshake that failed, or took too long; or a client that has gone
            accepted.close()
            log.debug("a connection did not begin: %s", error)
        except BaseException:
            accepted.close()
            raise

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self.start()

    def entered(self, connection: _Connection) -> None:
        """A connection is open."""
        self._open.add(connection)

    def left(self, connection: _Connection) -> None:
        """It is over."""
        self._open.discard(connection)
        self.start()


class _Connection(asyncio.BufferedProtocol):
    """One connection. To the application it is the `Body` of the request that is being answered."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._head = memoryview(bytearray(MAX_HEAD_BYTES))
        self._held = 0  # bytes in it: of a head, then of what follows it
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._ended = False  # the client has said all
        self._closing = False  # from our side
        self._closed = False
        self._writable = asyncio.Event()
        self._writable.set()
        # Of the request that is being answered
        self._keeps = True
        self._only_head = False
        self._expects = False
        self._begun: Message | None = None
        self._target: memoryview | None = None  # where the next bytes of the body are wanted
        self._filled = 0
        self._wanted: asyncio.Future[None] | None = None
        self.left = self.taken = 0
        self.moved = 0.0

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._web.entered(self)
        self._wait_for_head()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._target is not None:
            return self._target[self._filled :]
        return self._head[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        self.moved = self._loop.time()
        if self._target is None:
            self._held += nbytes
            self._look_for_head(self._held - nbytes)
            return
        self._filled += nbytes
        if self._filled == len(self._target):
            self._settle()

    def eof_received(self) -> bool:
        self._ended = True
        self._settle()
        # Who has said all may still wait for the answer. Under TLS uvloop knows no such thing.
        return self._answering is not None and self._web.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = self._closing = self._ended = True
        self._set_timer(None)
        self._writable.set()
        self._settle()
        self._web.left(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Heads

    def _wait_for_head(self) -> None:
        self._set_timer(HEAD_SECONDS, self.close)
        self._transport.resume_reading()

    def _look_for_head(self, seen: int) -> None:
        """Begin the answer once a head is there. `seen`: of the bytes held, those that were looked at before."""
        begin = max(0, seen - len(_END_OF_HEAD) + 1)
        found = bytes(self._head[begin : self._held]).find(_END_OF_HEAD)
        if found < 0:
            if self._held == len(self._head):
                self._refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self._set_timer(None)
        self._transport.pause_reading()
        stop = begin + found + len(_END_OF_HEAD)
        try:
            scope = self._parsed(bytes(self._head[:stop]))
        except (HttpParserError, ValueError):
            self._refuse(http.HTTPStatus.BAD_REQUEST)
            return
        self._drop(stop)
        self._go_on(self._answer(scope))

    def _parsed(self, raw: bytes) -> Scope:
        """Raises HttpParserError or ValueError where this is no head."""
        head = _Head(raw)
        self._keeps = head.keeps
        self._only_head = head.method == "HEAD"
        self._expects = head.expects
        self.left, self.taken = head.body_bytes, 0
        self._begun = None
        path, query = head.path_and_query()
        return {
            "type": "http",
            "http_version": head.version,
            "method": head.method,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "query_string": query,
            "headers": head.headers,
            "client": self._transport.get_extra_info("peername") or ("-", 0),
        }

    def _drop(self, count: int) -> None:
        """So many of the bytes held are dealt with."""
        self._held -= count
        if self._held:
            self._head[: self._held] = bytes(self._head[count : count + self._held])

    def _refuse(self, status: http.HTTPStatus) -> None:
        """Answer what is no request."""
        self._set_timer(None)
        self._transport.pause_reading()
        body = blank_document(status, f"This is no request: {status.description or status.phrase}.")
        self._begun = {
            "status": status,
            "headers": [
                (b"content-type", CONTENT_TYPE.encode("ascii")),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
                (b"connection", b"close"),
            ],
        }
        self._transport.write(self._answer_head(self._begun) + body)
        self.left = _ENDLESS
        self._go_on(self._part())

    # Bodies

    async def fill(self, buffer: memoryview) -> int:
        """See `Body`."""
        count = min(len(buffer), self.left)
        held = min(count, self._held)
        if held:
            buffer[:held] = self._head[:held]
            self._drop(held)
            self.left -= held
        self.taken += held
        if held < count and not (self._ended or self._closing):
            held += await self._receive(buffer[held:count])
        return held

    async def _receive(self, target: memoryview) -> int:
        if self._expects:
            self._expects = False
            self._transport.write(_CONTINUE)
        self._target, self._filled = target, 0
        self._wanted = self._loop.create_future()
        self._transport.resume_reading()
        try:
            await self._wanted
        finally:
            self._settle()
            self._target = self._wanted = None
            self.left -= self._filled
            self.taken += self._filled
        return self._filled

    def _settle(self) -> None:
        """Whoever waits for bytes waits no longer, and no more are taken."""
        if self._wanted is not None:
            if not self._wanted.done():
                self._wanted.set_result(None)
            if not self._closing:
                self._transport.pause_reading()

    # Answers

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        self._answering = self._loop.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever fails, the connection ends."""
        try:
            await work
        except Exception:
            log.exception("a connection failed")
            self.close()

    async def _answer(self, scope: Scope) -> None:
        await self._web.app(scope, self, self._send)
        if not self._keeps:
            await self._part()
            return
        await self._throw_away(STALL_SECONDS)
        if self.left or self._ended:
            self.close()
        elif not self._closing:
            self._answering = None
            self._wait_for_head()
            if self._held:
                self._look_for_head(0)

    async def _throw_away(self, seconds: float) -> None:
        """Read what is left of the body, as long as some comes within `seconds`, and it is not too much."""
        rubbish, enough = memoryview(bytearray(RUBBISH_BYTES)), self.taken + self._web.unread
        with contextlib.suppress(TimeoutError):
            while self.left and self.taken < enough and not self._ended and not self._closing:
                await fill_in_time(self, rubbish, seconds)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = message
            return
        answer = b"" if self._only_head else message["body"]
        if self._expects and self.left:  # it was not asked for its body, and need not send it
            self._keeps = False
        self._expects = False
        if self._begun is not None:
            answer = self._answer_head(self._begun) + answer
            self._begun = None
        if not self._closing:
            self._transport.write(answer)
            await self._written()

    def _answer_head(self, begun: Message) -> bytes:
        headers = [*begun["headers"], (b"date", formatdate(usegmt=True).encode("ascii"))]
        if (b"connection", b"close") in headers:
            self._keeps = False
        elif not self._keeps:
            headers.append((b"connection", b"close"))
        status = http.HTTPStatus(begun["status"])
        line = f"HTTP/1.1 {status.value} {status.phrase}".encode("ascii")
        return b"\r\n".join((line, *(name + b": " + value for name, value in headers), b"", b""))

    async def _written(self) -> None:
        """Wait until the answer is all but gone. A client that takes nothing of it for 30 s is given up."""
        while not self._writable.is_set():
            before = self._transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._writable.wait()
            except TimeoutError:
                if self._transport.get_write_buffer_size() == before:
                    self._transport.abort()
                    return

    # The end

    def close(self) -> None:
        """End the connection. What is written still goes out, for a while."""
        if not self._closed:
            self._closing = True
            self._transport.close()
            self._set_timer(STALL_SECONDS, self._transport.abort)

    async def _part(self) -> None:
        """End it from our side, then take what still comes: the client has its answer, and is to see it in peace."""
        can_end = self._transport.can_write_eof()  # not under TLS
        if (can_end or self.left) and not self._closing:
            if can_end:
                self._transport.write_eof()
            self.left, self._expects = _ENDLESS, False  # nothing that still comes is a request
            await self._throw_away(LINGER_SECONDS)
        self.close()

    def _set_timer(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or then is None else self._loop.call_later(seconds, then)


class _Head:
    """What the parser tells of a head. Raises HttpParserError or ValueError where it is none."""

    def __init__(self, raw: bytes) -> None:
        self._target = b""
        self._complete = self._may_keep = False
        self.headers: list[tuple[bytes, bytes]] = []
        self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade:
            pass  # an offer that nobody has to take
        except HttpParserError:
            if not self._complete:
                raise
            # All of it is well, but for a body that is encoded: every request refuses that, and says why.
        self.version = self._parser.get_http_version()
        self.method = self._parser.get_method().decode("ascii")
        del self._parser  # it holds on to us: together they would be left to the search for garbage
        if not self._complete or self.version not in ("1.0", "1.1"):
            raise ValueError
        if len(self._every(b"host")) != 1 and (self.version, self._every(b"host")) != ("1.0", []):
            raise ValueError
        self.keeps = self._may_keep and self.version == "1.1"
        self.expects = self.version == "1.1" and b"100-continue" in map(bytes.lower, self._every(b"expect"))
        # The parser has seen to it that there are not two answers to how long the body is.
        self.body_bytes = (
            _ENDLESS if self._every(b"transfer-encoding") else sum(map(int, self._every(b"content-length")))
        )

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self.headers.append((name.lower(), (value or b"").strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._complete = True
        self._may_keep = self._parser.should_keep_alive()  # it knows that no longer once it is through

    def _every(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self.headers if name == wanted]

    def path_and_query(self) -> tuple[bytes, bytes]:
        """Where the request goes; raises HttpParserError where that means nothing."""
        if self._target == b"*":
            return b"*", b""
        url = parse_url(self._target)
        if url.host is not None:  # then this is the host, whatever the header says (RFC 9112, 3.2.2)
            host = self._target.split(b"/", 3)[2].rpartition(b"@")[2]
            self.headers = [each for each in self.headers if each[0] != b"host"] + [(b"host", host)]
        return url.path or b"/", url.query or b""
