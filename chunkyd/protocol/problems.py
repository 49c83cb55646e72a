"""The protocol's errors: one table, read by both ends. A problem travels as RFC 9457 `application/problem+json`."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from chunkyd.errors import Problem
from chunkyd.protocol.documents import decode, encodable

TYPE_PREFIX = "https://chunkyd.dev/problems/"
CONTENT_TYPE = "application/problem+json"
LENGTH_REQUIRED = 411  # the one status besides its own that malformed-request travels with
MAX_MEMBER = 2**63 - 1

Action = Literal[
    "stop",  # it fails again until something is changed
    "retry",  # the same request again, which costs an attempt
    "wait",  # the same request again later, which costs none
    "refresh-status",  # ask what is missing and go on with that
    "smaller-chunks",
    "new-session",
    "rehash",  # the file is not what was announced: hash it, then a new session
    "reauthenticate",
    "ignore",  # nothing is wrong
]


class ProblemKind(msgspec.Struct, frozen=True):
    """One row: what a client does is in `action`, what a person does in `advice` (a sentence, the default detail).

    `retryable` says whether the same request may work later.
    """

    name: str
    status: int
    title: str
    action: Action
    retryable: bool
    advice: str


# fmt: off
TABLE: Mapping[str, ProblemKind] = {
    kind.name: kind
    for kind in (
        ProblemKind("invalid-session-id", 404, "Invalid session ID", "new-session", False,
                    "Start the upload again: the server does not know this session."),
        ProblemKind("session-expired", 410, "Session expired", "new-session", False,
                    "Start the upload again: the session was idle for too long and its bytes are gone."),
        ProblemKind("session-not-found", 404, "session doesn't exist", "ignore", False,
                    "Nothing to do: the session has ended already."),
        ProblemKind("invalid-file-hash", 422, "Invalid file hash", "rehash", False,
                    "Hash the file again and start anew: the hash is malformed, or of another version."),
        ProblemKind("malformed-request", 400, "Malformed request", "stop", False,
                    "Update both ends; if it stays, report it: the request is not what the protocol allows."),
        ProblemKind("chunk-out-of-bounds", 422, "Chunk outside the file", "refresh-status", False,
                    "Ask for the status and send what is missing: the chunk lies outside the file."),
        ProblemKind("too-fragmented", 422, "Too many separate ranges", "refresh-status", False,
                    "Send chunks next to those already stored, in order."),
        ProblemKind("chunk-length-mismatch", 400, "Body does not fill its range", "retry", True,
                    "Send the chunk again: its body was cut, or longer than its range."),
        ProblemKind("chunk-digest-mismatch", 400, "Chunk digest mismatch", "retry", True,
                    "Send the chunk again: it was damaged on its way."),
        ProblemKind("digest-mismatch", 400, "File digest mismatch", "rehash", False,
                    "Hash the file again and start anew: what came is not the announced file."),
        ProblemKind("chunk-in-progress", 409, "Chunk in progress elsewhere", "wait", True,
                    "Go on with another chunk: someone is sending this one."),
        ProblemKind("path-conflict", 409, "Path taken by a folder or file", "stop", False,
                    "Rename the file, or what is in its way on the server."),
        ProblemKind("chunk-too-large", 413, "Chunk too large", "smaller-chunks", True,
                    "Send smaller chunks."),
        ProblemKind("file-too-large", 413, "File too large", "stop", False,
                    "Ask the server's administrator for a higher limit."),
        ProblemKind("storage-full", 507, "Storage full", "wait", True,
                    "Make room on the server; the upload goes on by itself, and nothing stored is lost."),
        ProblemKind("quota-exceeded", 507, "Quota exceeded", "stop", False,
                    "Remove files of yours on the server, or ask its administrator for more room."),
        ProblemKind("unauthorized", 401, "Unauthorized", "reauthenticate", False,
                    "Give a valid token: this one is missing, wrong or revoked."),
        ProblemKind("forbidden", 403, "Forbidden", "stop", False,
                    "Ask the server's administrator: this token is not allowed to do that."),
        ProblemKind("rate-limited", 429, "Too many requests", "wait", True,
                    "Wait: the server takes no more requests at this rate."),
        ProblemKind("shutting-down", 503, "Shutting down", "wait", True,
                    "Wait: the server is stopping, and comes back with everything it stored."),
        ProblemKind("internal", 500, "Internal error", "retry", True,
                    "Try again; if it stays, look for the ID in the server's log."),
    )
}
# fmt: on


class _Document(msgspec.Struct):
    """What a client reads of a problem; the table, not the document, says what its name means."""

    type: str
    detail: str = ""


_FIXED_MEMBERS = frozenset({"type", "title", "status", "detail", "action", "retryable"})


def problem(
    name: str,
    detail: str,
    *,
    retry_after: float | None = None,
    status: int | None = None,
    **members: int | str,
) -> Problem:
    """The exception for a row of the table; without a detail, the row's advice. Members as on the wire.

    `status` differs from the row's only where malformed-request is a missing length (LENGTH_REQUIRED).
    """
    return _build(TABLE[name], detail, status or TABLE[name].status, retry_after, members)


def _build(
    kind: ProblemKind, detail: str, status: int, retry_after: float | None, members: Mapping[str, int | str]
) -> Problem:
    return Problem(
        kind.name,
        detail or kind.advice,
        status=status,
        title=kind.title,
        action=kind.action,
        retryable=kind.retryable,
        retry_after=retry_after,
        members=members,
    )


def to_document(found: Problem) -> bytes:
    """The JSON body of a problem."""
    members = {key: encodable(value) if isinstance(value, str) else value for key, value in found.members.items()}
    document: dict[str, int | str | bool] = {
        "type": TYPE_PREFIX + found.name,
        "title": found.title,
        "status": found.status,
        "detail": encodable(found.detail),
        "action": found.action,
        "retryable": found.retryable,
    }
    return msgspec.json.encode(members | document)


def blank_document(status: int, detail: str) -> bytes:
    """The JSON body of what the table does not name: `about:blank` with the HTTP title."""
    title = http.HTTPStatus(status).phrase
    return msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "detail": detail})


def from_document(status: int, body: bytes, retry_after: float | None = None) -> Problem | None:
    """The problem in an answer, or None where the answer is not a problem of this protocol's table.

    An answer whose status is not that of its problem is none: something between the two ends has had a hand in it.
    """
    try:
        document = decode(body, _Document)
        every = decode(body, dict[str, Any])
    except ValueError:
        return None
    kind = TABLE.get(document.type.removeprefix(TYPE_PREFIX))
    if kind is None or not document.type.startswith(TYPE_PREFIX) or not _has_status(kind, status):
        return None
    members = {key: value for key, value in every.items() if key not in _FIXED_MEMBERS and _is_member(value)}
    return _build(kind, document.detail, status, retry_after, members)


def reworded(found: Problem, detail: str) -> Problem:
    """The same problem with another detail."""
    return _build(TABLE[found.name], detail, found.status, found.retry_after, found.members)


def _has_status(kind: ProblemKind, status: int) -> bool:
    return status == kind.status or (kind.name == "malformed-request" and status == LENGTH_REQUIRED)


def _is_member(value: object) -> bool:
    """Strings and counts: a negative size is not one, and would make a client loop."""
    return isinstance(value, str) or (type(value) is int and 0 <= value <= MAX_MEMBER)
