"""What travels: headers, requests and replies, as frozen structs. Encoding is here for both ends, and no I/O."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from chunkyd.protocol.documents import decode
from chunkyd.protocol.paths import check_path, decode_path_bytes, encode_path
from chunkyd.protocol.ranges import Range
from chunkyd.protocol.times import format_time, parse_time

PROTOCOL_VERSION = "1"

# Header names as HTTP/1.1 people read them; lookups are case-insensitive.
HEADER_SESSION = "Chunky-Session"
HEADER_FILE_HASH = "Chunky-File-Hash"
HEADER_REQUEST_ID = "Chunky-Request-Id"
HEADER_VERSION = "Chunky-Version"
HEADER_IDEMPOTENCY_KEY = "Idempotency-Key"

PATH_INITIATE = "/initiateUploadSession"
PATH_CHUNK = "/uploadChunk"
PATH_STATUS = "/uploadStatus"
PATH_END = "/endUpload"
PATH_HEALTH = "/healthz"
PATH_READY = "/readyz"

DEFAULT_TTL_SECONDS = 432_000
MAX_TOTAL_BYTES = 2**63 - 1
MAX_MODE = 0o777
MAX_STORED_RANGES = 100_000
MAX_HEAD_BYTES = 16 * 1024
MIN_CHUNK_BYTES = 256 * 1024  # a client halves no further
MAX_RETRY_AFTER = 3600.0  # seconds; a client asks again after an hour, whatever it was told
STALL_SECONDS = 30.0  # a chunk or a connection on which no byte moves for so long is given up
EMPTY_FILE_HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

Status = Literal["incomplete", "verifying", "complete"]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL_BYTES)]
ChunkBytes = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOTAL_BYTES)]  # of none, a client would send chunks for ever
SessionId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._~-]{1,255}\Z")]  # what can travel in a header

Reply = TypeVar("Reply", bound="SessionReply | ChunkReply | StatusReply | EndReply | LimitsReply")

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)
_CLIENT = re.compile(r"[A-Za-z0-9\-._~]{1,64}", re.ASCII)
_DELTA_SECONDS = re.compile(r"[0-9]+", re.ASCII)


class Initiate(msgspec.Struct, frozen=True):
    """What a session is asked for. `path`: raw bytes; `modified_ns`: nanoseconds since 1970; `mode`: at most 0o777.

    `client` and `order`, both or neither: of a client's initiates for one path that of the greater order is the later.
    `file_version` names the version where its hash is to be declared later; `file_hash` is empty then.
    """

    file_hash: str
    total_bytes: int
    path: bytes | None = None
    modified_ns: int | None = None
    mode: int | None = None
    client: str | None = None
    order: int | None = None
    file_version: str | None = None


class _InitiateDocument(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    file_hash: str | None = None
    file_version: str | None = None
    total_bytes: int
    path: str | None = None
    path_bytes: str | None = None
    modified_at: str | None = None
    mode: int | None = None
    client: str | None = None
    order: int | None = None


class SessionReply(msgspec.Struct, frozen=True, rename="camel"):
    """201 to an initiate. Times are RFC 3339; `chunk_bytes` is advice, `max_chunk_bytes` a limit."""

    session_id: SessionId
    ttl_seconds: Annotated[int, msgspec.Meta(ge=0)]
    expires_at: str
    chunk_bytes: ChunkBytes
    max_chunk_bytes: ChunkBytes
    status: Status
    missing_ranges: list[tuple[int, int]]


class ChunkReply(msgspec.Struct, frozen=True, rename="camel"):
    """200 to a chunk, which is stored, or to the declaration of a hash, which is recorded."""

    status: Status


class StatusReply(msgspec.Struct, frozen=True, rename="camel"):
    """200 to a status request; `missing_ranges` as on the wire, both ends inclusive."""

    status: Status
    missing_ranges: list[tuple[int, int]]
    total_bytes: Bytes
    expires_at: str


class EndReply(msgspec.Struct, frozen=True, rename="camel"):
    """200 to an end: `ended` after completion, `cancelled` where nothing was published."""

    result: Literal["ended", "cancelled"]


class LimitsReply(msgspec.Struct, frozen=True, rename="camel"):
    """200 to OPTIONS: what this server takes."""

    digests: list[str]
    max_chunk_bytes: ChunkBytes
    max_file_bytes: Bytes
    extensions: list[str]


def encode_initiate(request: Initiate) -> bytes:
    """The JSON body of an initiate."""
    path, path_bytes = encode_path(request.path) if request.path is not None else (None, None)
    return msgspec.json.encode(
        _InitiateDocument(
            file_hash=request.file_hash if request.file_version is None else None,
            file_version=request.file_version,
            total_bytes=request.total_bytes,
            path=path,
            path_bytes=path_bytes,
            modified_at=format_time(request.modified_ns) if request.modified_ns is not None else None,
            mode=request.mode,
            client=request.client,
            order=request.order,
        )
    )


def decode_initiate(body: bytes) -> Initiate:
    """An initiate from its JSON body.

    Raises ValueError with the reason (`malformed-request`); file hash and file version are not judged here, because a
    malformed one has a problem of its own (`invalid-file-hash`): ask `is_file_hash` and `is_file_version`.
    """
    document = decode(body, _InitiateDocument)
    if (document.file_hash is None) == (document.file_version is None):
        raise ValueError("an initiate has either fileHash or fileVersion")
    if document.file_version is not None and document.path is None and document.path_bytes is None:
        raise ValueError("a file whose hash is not known yet needs a path to be published under")
    if not 0 <= document.total_bytes <= MAX_TOTAL_BYTES:
        raise ValueError("totalBytes is not an integer from 0 to 2^63-1")
    if document.mode is not None and not 0 <= document.mode <= MAX_MODE:
        raise ValueError("mode is not an integer from 0 to 511")
    if (document.client is None) != (document.order is None):
        raise ValueError("client and order come together")
    if document.client is not None and _CLIENT.fullmatch(document.client) is None:
        raise ValueError("client is not 1 to 64 characters A-Z a-z 0-9 - . _ ~")
    if document.order is not None and not 0 <= document.order <= MAX_TOTAL_BYTES:
        raise ValueError("order is not an integer from 0 to 2^63-1")
    return Initiate(
        file_hash=document.file_hash or "",
        total_bytes=document.total_bytes,
        path=_path(document),
        modified_ns=parse_time(document.modified_at) if document.modified_at is not None else None,
        mode=document.mode,
        client=document.client,
        order=document.order,
        file_version=document.file_version,
    )


def _path(document: _InitiateDocument) -> bytes | None:
    if document.path is not None and document.path_bytes is not None:
        raise ValueError("path and pathBytes exclude each other")
    if document.path_bytes is not None:
        return check_path(decode_path_bytes(document.path_bytes))
    return check_path(document.path.encode("utf-8")) if document.path is not None else None


def encode_reply(reply: Reply) -> bytes:
    """The JSON body of a reply."""
    return msgspec.json.encode(reply)


def decode_reply(body: bytes, kind: type[Reply]) -> Reply:
    """A reply from its JSON body; ValueError where it is not what the protocol promises (`missing_ranges`: ask
    `ranges.from_wire`, which knows the total).
    """
    return decode(body, kind)


def format_content_range(chunk: Range, total: int) -> str:
    """The header's value for the half-open range `chunk` of a file of `total` bytes."""
    return f"bytes {chunk[0]}-{chunk[1] - 1}/{total}"


def parse_content_range(header: str) -> tuple[Range, int]:
    """The half-open range and the total of a `Content-Range`; ValueError on anything but `bytes first-last/total`."""
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise ValueError("Content-Range is not 'bytes first-last/total'")
    first, last, total = (int(digits) for digits in match.groups())
    if first > last:
        raise ValueError("the first byte of Content-Range is behind its last")
    return (first, last + 1), total


def parse_retry_after(text: str, now: float) -> float | None:
    """The seconds a `Retry-After` asks to wait, 0 to MAX_RETRY_AFTER; None where it is neither seconds nor a date.

    `now` is wall time, for the dates.
    """
    text = text.strip(" \t")
    if _DELTA_SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    moment = parse_date(text)
    return None if moment is None else min(max(moment - now, 0.0), MAX_RETRY_AFTER)


def parse_date(text: str) -> float | None:
    """The wall time of an HTTP date; None where it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # all four, as garbage would have it
        return None
