"""The batch extension: many small files in one body, and a line of the answer for each of them.

    body     entries, one behind the other, and nothing else
    entry    length of the header (4 bytes) · length of the content (4 bytes) · header · content
    header   JSON, as the body of an initiate
    content  the file's bytes, `totalBytes` of them; none for an *offer*, which asks whether the bytes are needed

Lengths are big-endian. They, not the header, say where the next entry begins: a file whose header means nothing spoils
no other. The answer is JSON lines, one for each entry, in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from chunkyd.errors import Problem
from chunkyd.protocol.documents import decode
from chunkyd.protocol.problems import from_document, to_document

EXTENSION = "batch"  # its name in the answer to OPTIONS
PATH_BATCH = "/uploadBatch"
CONTENT_TYPE = "application/vnd.chunkyd.batch"
ANSWER_TYPE = "application/x-ndjson"
MAX_ENTRIES = 1000
MAX_CONTENT_BYTES = 1 << 20  # a bigger file is worth a session, which can be resumed
MAX_HEADER_BYTES = 64 << 10

_LENGTHS = struct.Struct(">II")

Result = Literal["complete", "wanted", "refused"]


class Entry(msgspec.Struct, frozen=True):
    """One file as it travels: the header not yet read, and its bytes."""

    header: bytes
    content: memoryview


class Outcome(msgspec.Struct, frozen=True):
    """How a file came out. `wanted` answers an offer: send the bytes. `refused` says why.

    `known`: it is complete without the bytes that came, or might have come, with it.
    """

    result: Result
    problem: Problem | None = None
    known: bool = False


class _Line(msgspec.Struct, omit_defaults=True):
    result: Result
    problem: dict[str, Any] | None = None
    known: bool = False


def encode_entry(header: bytes, content_bytes: int) -> bytes:
    """What stands before a file's content in the body."""
    return _LENGTHS.pack(len(header), content_bytes) + header


def entry_bytes(header: bytes, content_bytes: int) -> int:
    """The length of an entry."""
    return _LENGTHS.size + len(header) + content_bytes


class EntryParser:
    """Takes a body bit by bit and gives its entries; ValueError where it is none, and then nothing of it counts."""

    def __init__(self) -> None:
        self._rest = b""
        self._entries = 0

    def feed(self, *pieces: bytes | memoryview) -> Iterator[Entry]:
        """The entries that end in these bytes; their contents are views of a copy of them."""
        data = b"".join((self._rest, *pieces))
        view, position = memoryview(data), 0
        while len(data) - position >= _LENGTHS.size:
            header_bytes, content_bytes = self._lengths(data, position)
            header = position + _LENGTHS.size
            content = header + header_bytes
            stop = content + content_bytes
            if stop > len(data):
                break
            yield Entry(data[header:content], view[content:stop])
            self._entries += 1
            position = stop
        self._rest = data[position:]

    def _lengths(self, data: bytes, position: int) -> tuple[int, int]:
        header_bytes, content_bytes = _LENGTHS.unpack_from(data, position)
        if self._entries == MAX_ENTRIES:
            raise ValueError(f"a batch holds at most {MAX_ENTRIES} files")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"the header of an entry holds at most {MAX_HEADER_BYTES} bytes")
        if content_bytes > MAX_CONTENT_BYTES:
            raise ValueError(f"a file in a batch holds at most {MAX_CONTENT_BYTES} bytes")
        return header_bytes, content_bytes

    def finish(self) -> None:
        """The body has ended."""
        if self._rest:
            raise ValueError("the body ends within an entry")


def encode_outcome(outcome: Outcome) -> bytes:
    """The line of one file, with its end."""
    document = msgspec.json.decode(to_document(outcome.problem)) if outcome.problem is not None else None
    return msgspec.json.encode(_Line(outcome.result, document, outcome.known)) + b"\n"


def decode_outcome(line: bytes) -> Outcome:
    """The outcome in a line; ValueError where it is not what the protocol promises."""
    found = decode(line, _Line)
    if (found.result == "refused") != (found.problem is not None):
        raise ValueError("a file is refused with a problem, and only then")
    if found.problem is None:
        return Outcome(found.result, known=found.known)
    status = found.problem.get("status")
    known = from_document(status, msgspec.json.encode(found.problem)) if isinstance(status, int) else None
    if known is None:
        raise ValueError("a file is refused for a reason that is none of the protocol's")
    return Outcome(found.result, known)
