"""What an answer means: pure. Only what the protocol promises is believed; the rest is a network error.

A proxy's 502 page, a captive portal's 200 with HTML, JSON of another shape and missing ranges out of order are network
errors: the same again may reach the server. A bare 413 says that chunks are too large; a bare 401, 403, 404, 405 and a
redirect say that this URL is not a chunky server.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from chunkyd.errors import ChunkyError, NetworkError, NotChunky
from chunkyd.protocol.batch import Outcome, decode_outcome
from chunkyd.protocol.messages import Reply, SessionReply, StatusReply, decode_reply, parse_date, parse_retry_after
from chunkyd.protocol.problems import from_document, problem, reworded
from chunkyd.protocol.ranges import Range, from_wire

_NOT_CHUNKY = frozenset({401, 403, 404, 405})
_TOO_LARGE = 413
_MOST_TEXT = 300  # characters of somebody else's text


class Answer(msgspec.Struct, frozen=True):
    """One answer as it came: `headers` with lower-case names, `date` the wall time of its arrival."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    date: float


def decoded(answer: Answer, expected: int, shape: type[Reply]) -> Reply:
    """The reply, where the answer is the one expected; raises what it means otherwise."""
    if answer.status != expected:
        raise failure(answer)
    try:
        return decode_reply(answer.body, shape)
    except ValueError as error:
        raise _not_promised(answer, "is not the JSON this protocol promises") from error


def failure(answer: Answer) -> ChunkyError:
    """What an answer other than the expected one means."""
    retry_after = retry_after_of(answer)
    found = from_document(answer.status, answer.body, retry_after) if 400 <= answer.status < 600 else None
    if found is not None:
        return reworded(found, printable(found.detail))  # it goes to terminals, into logs and the job table
    if 300 <= answer.status < 400:
        target = printable(answer.headers.get("location", ""))
        return NotChunky(
            f"{answer.url} redirects to {target or 'nowhere'}; redirects are never followed",
            mend="Use the server's final URL.",
        )
    if answer.status in _NOT_CHUNKY:
        return NotChunky(
            f"{answer.url} answers {answer.status}, but not as a chunky server does",
            mend="Check the URL, and whether a proxy in front of the server lets this through.",
        )
    if answer.status == _TOO_LARGE:
        return problem("chunk-too-large", "something before the server takes no request of this size")
    return _not_promised(answer, f"has status {answer.status}", retry_after)


def _not_promised(answer: Answer, how: str, retry_after: float | None = None) -> NetworkError:
    return NetworkError(
        f"the answer of {answer.url} {how}",
        mend="A proxy or a login page may stand in between.",
        retry_after=retry_after,
    )


def retry_after_of(answer: Answer) -> float | None:
    """How long the answer asks to wait, in seconds; None where it does not say."""
    text = answer.headers.get("retry-after")
    return parse_retry_after(text, _sent(answer)) if text is not None else None


def _sent(answer: Answer) -> float:
    """The wall time of the peer, by which its dates go: ours may be a day off."""
    sent = parse_date(answer.headers.get("date", ""))
    return answer.date if sent is None else sent


def checked_status(answer: Answer, reply: StatusReply, total: int) -> StatusReply:
    """The reply to a status request, where it speaks of the same file."""
    if reply.total_bytes != total:
        raise _not_promised(answer, f"speaks of {reply.total_bytes} bytes, not {total}")
    return reply


def missing_of(answer: Answer, reply: SessionReply | StatusReply, total: int) -> tuple[Range, ...]:
    """The missing ranges, half-open."""
    try:
        return tuple(from_wire(reply.missing_ranges, total))
    except ValueError as error:
        raise _not_promised(answer, f"is broken: {error}") from error


def outcomes(answer: Answer, files: int) -> list[Outcome]:
    """What the answer to a batch says of each of its files, in order."""
    if answer.status != 200:
        raise failure(answer)
    try:
        found = [decode_outcome(line) for line in answer.body.splitlines()]
    except ValueError as error:
        raise _not_promised(answer, f"is broken: {error}") from error
    if len(found) != files:
        raise _not_promised(answer, f"speaks of {len(found)} files, not {files}")
    return found


def printable(text: str) -> str:
    """Foreign text for an error message: short, and without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MOST_TEXT])
