"""The head of a request, parsed by llhttp: strictly, and by itself, so that the parser never sees a body."""

from __future__ import annotations

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

ENDLESS = 1 << 63  # bytes of a body of no declared length: every request refuses it


class RequestHead:
    """What a request begins with: method, target, version, headers. `raw`: to the end of its empty line.

    `keeps`: the connection is to go on; `expects`: the client waits for 100 Continue; `body_bytes`: how many follow,
    ENDLESS where that is not declared. Raises ValueError where this is no head.
    """

    def __init__(self, raw: bytes) -> None:
        self._target = b""
        self._complete = self._may_keep = False
        self.headers: list[tuple[bytes, bytes]] = []
        self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade:
            pass  # an offer that nobody has to take
        except HttpParserError as error:
            if not self._complete:
                raise ValueError(str(error)) from error
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
        self.path, self.query = self._place()
        # The parser has seen to it that there are not two answers to how long the body is.
        self.body_bytes = (
            ENDLESS if self._every(b"transfer-encoding") else sum(map(int, self._every(b"content-length")))
        )

    def on_url(self, url: bytes) -> None:
        """The parser's word."""
        self._target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """The parser's word."""
        self.headers.append((name.lower(), (value or b"").strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The parser's word."""
        self._complete = True
        self._may_keep = self._parser.should_keep_alive()  # it knows that no longer once it is through

    def _every(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self.headers if name == wanted]

    def _place(self) -> tuple[bytes, bytes]:
        """Path and query."""
        if self._target == b"*":
            return b"*", b""
        try:
            url = parse_url(self._target)
        except HttpParserError as error:
            raise ValueError(str(error)) from error
        if url.host is not None:  # then this is the host, whatever the header says (RFC 9112, 3.2.2)
            host = re.split(rb"[/?#]", self._target.partition(b"://")[2], maxsplit=1)[0].rpartition(b"@")[2]
            self.headers = [each for each in self.headers if each[0] != b"host"] + [(b"host", host)]
        return url.path or b"/", url.query or b""
