"""One request and its answer, as seen from outside the application: identity, body, log line, and the refused body.

- Every answer carries the request's ID and `Cache-Control: no-store`.
- An error to a request whose body was not read says `Connection: close`, and what follows is never read as a
  request. The answer goes out at once; then the rest of the body is read and thrown away, as long as it keeps coming:
  to close with bytes unread would reset the connection, and a client still sending would never see the answer.
- One line in the log for each request (docs/server.md says what is in it).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator

from starlette.types import Message, Receive, Scope, Send

from chunkyd.protocol.messages import HEADER_REQUEST_ID, STALL_SECONDS
from chunkyd.server.headers import Head, Refused
from chunkyd.server.receive import BodyCut

DRAIN_SPARE_BYTES = 1 << 20

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)

access = logging.getLogger("chunkyd.server.access")


class Exchange:
    """A request on its way; `user`, `session`, `range` and `problem` are filled in as they become known."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begun = time.monotonic()
        self._body_ended = False
        self._given_up = False
        self.head = Head(scope["headers"])
        given = self.head.first(HEADER_REQUEST_ID)
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.address = "-"
        self.user = "-"
        self.session = "-"
        self.range = "-"
        self.problem = ""
        self.status = 0
        self.received = 0

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self._scope["method"])

    @property
    def body_pending(self) -> bool:
        """Whether some of the request's body has not been read."""
        return self.head.has_body and not self._body_ended

    async def receive(self) -> Message:
        """The next message from the client, counted."""
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            self._given_up = True  # it stalled, or the server stops: nobody waits for the rest
            raise
        if message["type"] != "http.request":
            self._body_ended = True
        else:
            self.received += len(message.get("body", b""))
            self._body_ended = not message.get("more_body", False)
        return message

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes; BodyCut where the connection ends first."""
        while not self._body_ended:
            message = await self.receive()
            if message["type"] != "http.request":
                raise BodyCut
            if message.get("body"):
                yield message.pop("body")  # held here no longer: the next may be long in coming

    async def body(self, limit: int) -> bytes:
        """A small body as a whole; 413 where it is longer than `limit`."""
        if self.head.length() > limit:
            raise Refused(413, f"The body holds at most {limit} bytes.")
        async with asyncio.timeout(STALL_SECONDS):
            return b"".join([piece async for piece in self.pieces()])

    async def send(self, message: Message) -> None:
        """Answer; the headers every answer has are added here."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [
                *message.get("headers", ()),
                (HEADER_REQUEST_ID.lower().encode("ascii"), self.request_id.encode("ascii")),
                (b"cache-control", b"no-store"),
            ]
            if self.status >= 400 and self.body_pending:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def drain(self, most: int) -> None:
        """Read what is left of a body nobody wants, so that the answer is not lost."""
        waits_for_leave = self.head.first("expect") is not None and not self.received
        if not self.body_pending or self._given_up or waits_for_leave:
            return
        spare = most + DRAIN_SPARE_BYTES
        try:
            async with asyncio.timeout(None) as patience:
                while self.body_pending and self.received < spare:
                    patience.reschedule(asyncio.get_running_loop().time() + STALL_SECONDS)
                    await self.receive()
        except TimeoutError:
            return

    def log(self) -> None:
        """The request's line."""
        access.info(
            "%s %.100s %d %.1fms request=%s user=%s session=%.8s range=%s body=%d from=%s%s",
            self.method,
            self._scope["path"],
            self.status,
            (time.monotonic() - self._begun) * 1000,
            self.request_id,
            self.user,
            self.session,
            self.range,
            self.received,
            self.address,
            f" problem={self.problem}" if self.problem else "",
        )
