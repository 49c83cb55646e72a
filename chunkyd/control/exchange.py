"""One request over a Unix socket and its answer: the little of HTTP that it takes to speak to one's own daemon.

`http.client` brings e-mail and TLS along, and takes longer to load than all that chunkyctl itself is made of. The
request is one of HTTP/1.0: its answer is never in chunks (RFC 9112, 7.1); it ends with its length, or the connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping
from typing import BinaryIO

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_LONGEST_LINE = 8192
_MOST_HEADERS = 100


class NoHttp(Exception):
    """What came is no answer, or not all of one."""


class Response:
    """An answer whose head has come; names of headers are lower-case."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        found = _STATUS_LINE.fullmatch(stream.readline(_LONGEST_LINE))
        if found is None:
            raise NoHttp("what came is no answer")
        self.status = int(found[1])
        self.reason = (found[2] or b"").decode("ascii", "replace")
        self.headers = dict(_headers(stream))

    def read(self, limit: int) -> bytes:
        """The body; NoHttp where it ends before its length, or is longer than the limit."""
        length = self.headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise NoHttp("the answer has no length that could be one")
        body = self._stream.read(limit + 1 if length is None else min(int(length), limit + 1))
        if len(body) > limit:
            raise NoHttp(f"the answer has more than {limit} bytes")
        if length is not None and len(body) < int(length):
            raise NoHttp(f"the answer ended after {len(body)} of {length} bytes")
        return body

    def readline(self) -> bytes:
        """A line of a body without length; nothing at its end."""
        return self._stream.readline()


def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    for _ in range(_MOST_HEADERS):
        line = stream.readline(_LONGEST_LINE)
        if line in (b"\r\n", b"\n"):
            return
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not line.endswith(b"\n"):
            raise NoHttp("the head of the answer is cut off, or none")
        yield name.lower(), value.strip()
    raise NoHttp("the head of the answer does not end")


@contextlib.contextmanager
def ask(
    path: str, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float
) -> Iterator[Response]:
    """Ask at the socket of this path, with so many seconds for each step. Raises OSError and NoHttp."""
    lines = {"Host": "localhost", **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience)
        connection.connect(path)
        with contextlib.suppress(BrokenPipeError):  # refused before its body was read: the answer says why
            connection.sendall(f"{method} {target} HTTP/1.0\r\n{head}\r\n".encode("ascii") + body)
        with connection.makefile("rb") as stream:
            yield Response(stream)
