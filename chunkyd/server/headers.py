"""Reading a request's head strictly: what is doubled, missing or malformed is said, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chunkyd.errors import Problem
from chunkyd.protocol.digests import DIGESTS, Checker, parse_content_digest
from chunkyd.protocol.messages import parse_content_range
from chunkyd.protocol.problems import problem
from chunkyd.server.uploads import Chunk

_ONCE = frozenset({"content-range", "content-digest", "authorization"})  # and all of the protocol's own


class Refused(Exception):
    """A refusal that the protocol's table does not name: `about:blank` with the HTTP title."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Head:
    """The headers of one request."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in raw:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def every(self, name: str) -> list[str]:
        """All values of a header."""
        return self._values.get(name.lower(), [])

    def first(self, name: str) -> str | None:
        """The first value, for headers on which nothing depends."""
        values = self.every(name)
        return values[0] if values else None

    def optional(self, name: str) -> str | None:
        """The value, None where there is none; malformed-request where there are two."""
        values = self.every(name)
        if len(values) > 1:
            raise malformed(f"{name} is there {len(values)} times.")
        return values[0] if values else None

    def one(self, name: str) -> str:
        """The value; malformed-request where there is none, or two."""
        value = self.optional(name)
        if value is None:
            raise malformed(f"{name} is missing.")
        return value

    def length(self) -> int:
        """The body's declared length; malformed-request (411) where it is not declared."""
        self.refuse_transfer_encoding()
        text = self.optional("content-length")
        if text is None:
            raise malformed("Content-Length is missing.", status=411)
        if not text.isascii() or not text.isdigit():
            raise malformed("Content-Length is not a number.")
        return int(text)

    def refuse_transfer_encoding(self) -> None:
        """Lengths are declared, never told on the way."""
        if self.every("transfer-encoding"):
            raise malformed("Transfer-Encoding is not taken; send Content-Length.", status=411)

    def check(self) -> None:
        """What no request may have, whatever it asks for: a header twice that must be clear, a body of no length."""
        for name, values in self._values.items():
            if len(values) > 1 and (name in _ONCE or name.startswith("chunky-")):
                raise malformed(f"{name} is there {len(values)} times.")
        self.refuse_transfer_encoding()

    def require_type(self, wanted: str) -> None:
        """Anything but this Content-Type is 415."""
        found = (self.optional("content-type") or "").partition(";")[0].strip().lower()
        if found != wanted:
            raise Refused(415, f"Content-Type must be {wanted}.")

    def chunk(self) -> Chunk:
        """What the head of a chunk says."""
        self.check()
        length = self.length()
        self.require_type("application/octet-stream")
        try:
            chunk, total = parse_content_range(self.one("Content-Range"))
        except ValueError as error:
            raise malformed(f"{error}.") from error
        return Chunk(chunk, total, length, self.digests())

    def digests(self) -> Mapping[str, bytes]:
        """The digests of the body that are known here; malformed-request where there is none."""
        digests = self._known_digests(self.one("Content-Digest"))
        if not digests:
            raise malformed(f"Content-Digest names none of {', '.join(DIGESTS)}.")
        return digests

    def check_small_body(self, body: bytes) -> None:
        """A body of which no digest must be given: where one is, it is the body's; chunk-digest-mismatch else."""
        checker = Checker(self._known_digests(self.optional("Content-Digest") or ""))
        checker.update(body)
        if wrong := checker.mismatches():
            text = f"The {' and '.join(wrong)} of the body is not the one announced; send this request again."
            raise problem("chunk-digest-mismatch", text)

    def _known_digests(self, text: str) -> Mapping[str, bytes]:
        try:
            return parse_content_digest(text)
        except ValueError as error:
            raise malformed(f"{error}.") from error


def malformed(text: str, status: int | None = None) -> Problem:
    """The problem malformed-request."""
    return problem("malformed-request", text, status=status)
