"""One connection: heads, bodies and answers on the wire.

- A head holds at most 16 KiB, and comes within 30 s. Nothing that follows a body is taken for a part of it.
- A body is read where its reader wants it (`Body.fill`), by the kernel straight into the reader's buffer. While nobody
  asks for it nothing is read: what was sent stays with the kernel, and in the end with the client.
- A connection serves one request after the other. What an answer has left of a body is read and thrown away, as long as
  it keeps coming: closed with bytes unread a connection is reset, and a client that is still sending would never see
  the answer. Half a kilobyte a second is enough for that. One that was told `Connection: close` is told so by the
  connection as well, which ends on our side first.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from starlette.types import Message, Scope, Send

from chunkyd.protocol.messages import MAX_HEAD_BYTES, STALL_SECONDS
from chunkyd.protocol.problems import CONTENT_TYPE, blank_document
from chunkyd.server.parsing import ENDLESS, RequestHead
from chunkyd.server.receive import Body

HEAD_SECONDS = 30.0  # for a head, and so for a connection that has nothing to say
LINGER_SECONDS = 5.0  # for a client to end its side
RUBBISH_BYTES = 16 << 10  # that have to come within STALL_SECONDS, of what is thrown away
_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Application = Callable[[Scope, Body, Send], Awaitable[None]]

log = logging.getLogger("chunkyd.server")


class Place(Protocol):
    """Where a connection belongs. `unread`: bytes, of a body that was not asked for, that are read and thrown away."""

    app: Application
    unread: int
    tls: ssl.SSLContext | None

    def entered(self, connection: Connection) -> None:
        """It is open."""
        ...

    def left(self, connection: Connection) -> None:
        """It is over."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One connection. To the application it is the `Body` of the request that is being answered."""

    def __init__(self, place: Place) -> None:
        self._place = place
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

    # What the transport says (asyncio.BufferedProtocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open, and waits for a head."""
        self._transport = transport
        self._place.entered(self)
        self._wait_for_head()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go; never empty while bytes are taken."""
        if self._target is not None:
            return self._target[self._filled :]
        return self._head[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many have gone there."""
        self.moved = self._loop.time()
        if self._target is None:
            self._held += nbytes
            self._look_for_head(self._held - nbytes)
            return
        self._filled += nbytes
        if self._filled == len(self._target):
            self._settle()

    def eof_received(self) -> bool:
        """The client says no more; whether the connection stays open for what we have to say."""
        self._ended = True
        self._settle()
        # Who has said all may still wait for the answer. Under TLS uvloop knows no such thing.
        return self._answering is not None and self._place.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over: whoever waits for anything of it waits no longer."""
        self._closed = self._closing = self._ended = True
        self._set_timer(None)
        self._writable.set()
        self._settle()
        self._place.left(self)

    def pause_writing(self) -> None:
        """Much of an answer has not been taken."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has."""
        self._writable.set()

    # Heads

    def _wait_for_head(self) -> None:
        self._set_timer(HEAD_SECONDS, self.close)
        self._transport.resume_reading()

    def _look_for_head(self, seen: int) -> None:
        """Begin the answer once a head is there. `seen`: of the bytes held, those that were looked at before."""
        while self._held >= 2 and bytes(self._head[:2]) == b"\r\n":  # what some clients say between two requests
            self._drop(2)
            seen = 0
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
            head = RequestHead(bytes(self._head[:stop]))
        except ValueError:
            self._refuse(http.HTTPStatus.BAD_REQUEST)
            return
        self._drop(stop)
        self._go_on(self._answer(self._begin(head)))

    def _begin(self, head: RequestHead) -> Scope:
        """The request that is answered from here on."""
        self._keeps = head.keeps
        self._only_head = head.method == "HEAD"
        self._expects = head.expects
        self.left, self.taken = head.body_bytes, 0
        self._begun = None
        return {
            "type": "http",
            "http_version": head.version,
            "method": head.method,
            "path": unquote_to_bytes(head.path).decode("utf-8", "replace"),
            "query_string": head.query,
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
        self.left = 0
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
        await self._place.app(scope, self, self._send)
        if not self._keeps:
            await self._part()
            return
        await self._throw_away()
        if self.left or self._ended or not self._keeps:
            self.close()
        elif not self._closing:
            self._answering = None
            self._wait_for_head()
            if self._held:
                self._look_for_head(0)

    async def _throw_away(self) -> None:
        """Read what is left of the body, as long as it keeps coming, and is not too much."""
        rubbish, enough = memoryview(bytearray(RUBBISH_BYTES)), self.taken + self._place.unread
        with contextlib.suppress(TimeoutError):
            while self.left and self.taken < enough and not self._ended and not self._closing:
                async with asyncio.timeout(STALL_SECONDS):
                    await self.fill(rubbish)

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
            unsent = self._transport.get_write_buffer_size()
            self._transport.close()
            self._set_timer(STALL_SECONDS if unsent else LINGER_SECONDS, self._transport.abort)

    def stop(self) -> None:
        """End it: once its answer is out and what it has sent is read, if it is at one."""
        self._keeps = False
        if self._answering is None:
            self.close()

    async def _part(self) -> None:
        """End it from our side, then take what still comes: the client has its answer, and is to see it in peace."""
        self._expects = False
        can_end = self._transport.can_write_eof() and not self._closing  # not under TLS
        if can_end:
            self._transport.write_eof()
        await self._throw_away()
        if can_end and not self.left:
            self.left = ENDLESS  # of what is no request
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._throw_away()
        self.close()

    def _set_timer(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or then is None else self._loop.call_later(seconds, then)
