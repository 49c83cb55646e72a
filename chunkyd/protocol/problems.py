"""The protocol's errors: one table, read by both ends. A problem travels as RFC 9457 `application/problem+json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from chunkyd.errors import Problem

TYPE_PREFIX = "https://chunkyd.dev/problems/"
CONTENT_TYPE = "application/problem+json"


class ProblemKind(msgspec.Struct, frozen=True):
    """One row: what a client must do is in `action`; `retryable` says whether the same request may work later."""

    name: str
    status: int
    title: str
    action: str
    retryable: bool


TABLE: Mapping[str, ProblemKind] = {
    kind.name: kind
    for kind in (
        ProblemKind("invalid-session-id", 404, "Invalid session ID", "new-session", False),
        ProblemKind("session-expired", 410, "Session expired", "new-session", False),
        ProblemKind("session-not-found", 404, "session doesn't exist", "ignore", False),
        ProblemKind("invalid-file-hash", 422, "Invalid file hash", "rehash", False),
        ProblemKind("malformed-request", 400, "Malformed request", "stop", False),
        ProblemKind("chunk-out-of-bounds", 422, "Chunk outside the file", "refresh-status", False),
        ProblemKind("too-fragmented", 422, "Too many separate ranges", "refresh-status", False),
        ProblemKind("chunk-length-mismatch", 400, "Body does not fill its range", "retry", True),
        ProblemKind("chunk-digest-mismatch", 400, "Chunk digest mismatch", "retry", True),
        ProblemKind("digest-mismatch", 400, "File digest mismatch", "rehash", False),
        ProblemKind("chunk-in-progress", 409, "Chunk in progress elsewhere", "wait", True),
        ProblemKind("path-conflict", 409, "Path taken by a folder or file", "stop", False),
        ProblemKind("chunk-too-large", 413, "Chunk too large", "smaller-chunks", True),
        ProblemKind("file-too-large", 413, "File too large", "stop", False),
        ProblemKind("storage-full", 507, "Storage full", "wait", True),
        ProblemKind("quota-exceeded", 507, "Quota exceeded", "stop", False),
        ProblemKind("unauthorized", 401, "Unauthorized", "reauthenticate", False),
        ProblemKind("forbidden", 403, "Forbidden", "stop", False),
        ProblemKind("rate-limited", 429, "Too many requests", "wait", True),
        ProblemKind("shutting-down", 503, "Shutting down", "wait", True),
        ProblemKind("internal", 500, "Internal error", "retry", True),
    )
}


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
    """The exception for a row of the table. `status` differs from the row's only for 411; members as on the wire."""
    kind = TABLE[name]
    return Problem(
        name,
        detail,
        status=status or kind.status,
        title=kind.title,
        action=kind.action,
        retryable=kind.retryable,
        retry_after=retry_after,
        members=members,
    )


def to_document(found: Problem) -> bytes:
    """The JSON body of a problem."""
    document: dict[str, int | str | bool] = {
        "type": TYPE_PREFIX + found.name,
        "title": found.title,
        "status": found.status,
        "detail": found.detail,
        "action": found.action,
        "retryable": found.retryable,
    }
    return msgspec.json.encode(document | dict(found.members))


def from_document(status: int, body: bytes, retry_after: float | None = None) -> Problem | None:
    """The problem in an answer, or None where the answer is not a problem of this protocol's table."""
    try:
        document = msgspec.json.decode(body, type=_Document)
        every: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    name = document.type.removeprefix(TYPE_PREFIX)
    if name == document.type or name not in TABLE:
        return None
    members = {key: value for key, value in every.items() if key not in _FIXED_MEMBERS and type(value) in (int, str)}
    kind = TABLE[name]
    return Problem(
        name,
        document.detail,
        status=status,
        title=kind.title,
        action=kind.action,
        retryable=kind.retryable,
        retry_after=retry_after,
        members=members,
    )
