"""One request and its answer, as seen from outside the application: identity, body, and log line.

- Every answer carries the request's ID and `Cache-Control: no-store`.
- An error to a request whose body was not read says `Connection: close`, and what follows is never read as a request.
- One line in the log for each request (docs/server.md says what is in it).
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.types import Message, Scope, Send

from chunkyd.protocol.messages import HEADER_REQUEST_ID, STALL_SECONDS
from chunkyd.server.headers import Head, Refused
from chunkyd.server.receive import Body, BodyCut, fill_in_time

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)

access = logging.getLogger("chunkyd.server.access")


class Exchange:
    """A request on its way; `user`, `session`, `range` and `problem` are filled in as they become known."""

    def __init__(self, scope: Scope, body: Body, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._begun = time.monotonic()
        self.head = Head(scope["headers"])
        self.body = body
        given = self.head.first(HEADER_REQUEST_ID)
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.address = "-"
        self.user = "-"
        self.session = "-"
        self.range = "-"
        self.problem = ""
        self.status = 0

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self._scope["method"])

    async def small_body(self, limit: int) -> bytes:
        """A body as a whole; 413 where it is longer than `limit`, BodyCut where its end does not come."""
        length = self.head.length()
        if length > limit:
            raise Refused(413, f"The body holds at most {limit} bytes.")
        buffer = bytearray(length)
        if await fill_in_time(self.body, memoryview(buffer), STALL_SECONDS) < length:
            raise BodyCut
        return bytes(buffer)

    async def send(self, message: Message) -> None:
        """Answer; the headers every answer has are added here."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [
                *message.get("headers", ()),
                (HEADER_REQUEST_ID.lower().encode("ascii"), self.request_id.encode("ascii")),
                (b"cache-control", b"no-store"),
            ]
            if self.status >= 400 and self.body.left:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

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
            self.body.taken,
            self.address,
            f" problem={self.problem}" if self.problem else "",
        )
