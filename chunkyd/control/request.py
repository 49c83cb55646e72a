"""A request as a route reads it: query and body, strictly; whatever is wrong is named and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from chunkyd.control.base import LARGEST_BODY, LARGEST_PAGE, USUAL_PAGE, Message
from chunkyd.protocol.documents import decode, encodable

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

Known = TypeVar("Known", bound=Message)

LARGEST_NUMBER = (1 << 63) - 1


class Refused(Exception):
    """This is no request that is answered: its status, and what to tell the peer."""

    def __init__(self, status: int, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.status = status
        self.what = encodable(what)
        self.mend = encodable(mend)


class Query:
    """The query's members; one that is not among `known` is refused."""

    def __init__(self, environ: WSGIEnvironment, *known: str) -> None:
        self._members: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="strict")
        except ValueError as error:
            raise Refused(400, f"the query cannot be read: {error}") from error
        for name, value in pairs:
            if name not in known:
                raise Refused(400, f"unknown query member {name!r}", f"Known here: {', '.join(known) or 'none'}")
            self._members.setdefault(name, []).append(value)

    def text(self, name: str) -> str | None:
        """The value of a member, or None; of several the last counts."""
        values = self._members.get(name)
        return values[-1] if values else None

    def texts(self, name: str) -> tuple[str, ...]:
        """All values of a member that may come several times, or hold several between commas."""
        return tuple(part for value in self._members.get(name, ()) for part in value.split(",") if part)

    def number(self, name: str, least: int = 0, largest: int = LARGEST_NUMBER) -> int | None:
        """The value of a member that is a whole number, or None."""
        written = self.text(name)
        return None if written is None else whole_number(name, written, least, largest)

    def limit(self) -> int:
        """How many rows a page may have."""
        return self.number("limit", 1, LARGEST_PAGE) or USUAL_PAGE


def whole_number(name: str, written: str, least: int = 0, largest: int = LARGEST_NUMBER) -> int:
    """A number as it is written in a query or a path."""
    if len(written) <= len(str(largest)) and written.isascii() and written.isdigit():
        number = int(written)
        if least <= number <= largest:
            return number
    raise Refused(400, f"{name} takes a whole number from {least} to {largest}, not {written[:40]!r}")


def read_body(environ: WSGIEnvironment, kind: type[Known]) -> Known:
    """The JSON body; none at all is an empty object. Its length must be declared, and is never trusted with memory."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        raise Refused(411, "the body's length is not declared", "Send it with Content-Length")
    length = whole_number("Content-Length", environ.get("CONTENT_LENGTH") or "0")
    if length > LARGEST_BODY:
        raise Refused(413, f"the body has more than {LARGEST_BODY} bytes", "Name fewer jobs at once")
    try:
        body = environ["wsgi.input"].read(length) if length else b""
    except OSError as error:  # the peer stalls, or is gone
        raise Refused(408, "the body did not come") from error
    if len(body) < length:
        raise Refused(400, "the body was cut")
    try:
        return decode(body or b"{}", kind)
    except ValueError as error:
        raise Refused(400, f"the body is not what is asked for here: {error}") from error
