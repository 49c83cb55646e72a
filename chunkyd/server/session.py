"""The rules of one live session. Pure: no I/O, time is an argument, and one thread (the event loop) calls it.

Three sets of bytes, each within the next:
- *stored*: synced and recorded; only these leave the list of missing ranges, and no byte of them is written again;
- *checked*: stored, or written whole with a matching digest and waiting for the group commit; hashing may read them;
- *claimed*: the chunks in progress. Each writes only those of its bytes that are missing, so the first stored bytes
  win, and two never write the same. Their stored bytes are in the set too, where they mean nothing: nobody writes
  them. So a chunk over a hundred thousand gaps is one range here, not as many, and keeps nobody else waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from chunkyd.catalog.base import SessionRecord, SessionState
from chunkyd.errors import Problem
from chunkyd.protocol.messages import MAX_STORED_RANGES, Status
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import Range, RangeSet

IN_PROGRESS_RETRY_SECONDS = 1.0


class Claim(msgspec.Struct, frozen=True):
    """An admitted chunk: the bytes of it that were missing, and so are its own to write."""

    chunk: Range
    writes: tuple[Range, ...]


class LiveSession:
    """One session as the server holds it in memory; `record` is replaced as a whole when something of it changes."""

    def __init__(self, record: SessionRecord, stored: Iterable[Range] = ()) -> None:
        self.record = record
        self.stored = RangeSet(stored)
        self.checked = self.stored.copy()
        self.claimed = RangeSet()
        self.claims = 0
        self.busy = 0  # requests, verification, copy or publication under way
        self.gone = False  # ended or expired: whoever still holds it must not bring it back
        self.publishing = False  # the point of no return: an end waits for the outcome
        self.refusal: Problem | None = None  # why it cannot be published, told until that is tried again
        self.counted = 0  # what the ledger counts for it

    @property
    def session_id(self) -> str:
        """Its name."""
        return self.record.session_id

    @property
    def state(self) -> SessionState:
        """Where it stands."""
        return self.record.state

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.record.total_bytes

    @property
    def all_stored(self) -> bool:
        """Whether nothing is left to be sent."""
        return self.stored.total == self.total

    @property
    def hash_known(self) -> bool:
        """Whether anything can be verified or published: a late hash was declared."""
        return self.record.file_hash != ""

    @property
    def owed(self) -> int:
        """Bytes that are still to be found on the disk for it."""
        waiting = self.state in (SessionState.RECEIVING, SessionState.COPYING) and not self.gone
        return self.total - self.stored.total if waiting and not self.record.reserved else 0

    def status(self) -> Status:
        """The word for it on the wire; a dead session has none, it answers digest-mismatch."""
        if self.state is SessionState.COMPLETE:
            return "complete"
        if self.state is SessionState.RECEIVING and not (self.all_stored and self.hash_known):
            return "incomplete"
        return "verifying"

    def missing(self) -> list[Range]:
        """What the client has to send."""
        return self.stored.missing(0, self.total) if self.status() == "incomplete" else []

    def expired(self, now: float) -> bool:
        """Whether its time is over; never while something is under way."""
        return now >= self.record.expires_at and not self.busy and not self.publishing

    def renewed(self, now: float, ttl: float, age: float | None) -> float:
        """The deadline after a newly stored chunk."""
        deadline = now + ttl
        return deadline if age is None else min(deadline, self.record.created + age)

    def admit(self, chunk: Range, total: int, max_chunk: int) -> Claim | None:
        """Judge a chunk by its head, in the protocol's order: bounds, size, dead, stored, in progress, fragments.

        None where it is stored already. A claim must be given back by `release`, whatever comes of it.
        """
        start, stop = chunk
        if total != self.total or stop > self.total:
            where = f"bytes {start} to {stop - 1} of {total}"
            raise problem("chunk-out-of-bounds", f"{where} are not within the file's {self.total} bytes.")
        if stop - start > max_chunk:
            text = f"A chunk holds at most {max_chunk} bytes, this one {stop - start}; send smaller ones."
            raise problem("chunk-too-large", text, maxChunkBytes=max_chunk)
        self.require_alive()
        writes = self._writes(start, stop)
        if not writes:
            return None
        if any(self.claimed.overlaps(*piece) for piece in writes):
            text = "Another request is sending these bytes; go on with another chunk."
            raise problem("chunk-in-progress", text, retry_after=IN_PROGRESS_RETRY_SECONDS)
        if len(self.stored) + self.claims >= MAX_STORED_RANGES and not self.stored.joins(start, stop):
            text = f"{MAX_STORED_RANGES} separate ranges are stored; send chunks next to them, to close the gaps."
            raise problem("too-fragmented", text)
        return Claim(chunk, tuple(writes))

    def _writes(self, start: int, stop: int) -> list[Range]:
        return self.stored.missing(start, stop) if self.status() == "incomplete" else []

    def require_alive(self) -> None:
        """Raise digest-mismatch where the whole turned out to be other bytes than the hash named."""
        if self.state is SessionState.DEAD:
            text = "The bytes received are not the file of this hash; hash the file again and begin a new session."
            raise problem("digest-mismatch", text)

    def require_place(self) -> None:
        """Raise what only the client can mend, and keeps the file from its place; it does not speak against the bytes.

        What the server mends by itself, trying again, is told to those who ask for the status.
        """
        if self.refusal is not None and not self.refusal.retryable:
            raise self.refusal

    def claim(self, claim: Claim) -> None:
        """Enter an admitted chunk as in progress."""
        self.claims += 1
        self.claimed.add(*claim.chunk)

    def release(self, claim: Claim) -> None:
        """Its last write has returned: the range is free again."""
        self.claims -= 1
        self.claimed.remove(*claim.chunk)

    def check(self, ranges: Sequence[Range]) -> None:
        """These bytes are written and their digest matched."""
        for piece in ranges:
            self.checked.add(*piece)

    def uncheck(self, ranges: Sequence[Range]) -> None:
        """The commit failed: they count for nothing, and may come again with other bytes."""
        for piece in ranges:
            self.checked.remove(*piece)

    def store(self, ranges: Sequence[Range], expires_at: float) -> None:
        """These bytes are durable and recorded."""
        for piece in ranges:
            self.stored.add(*piece)
        self.record = replace(self.record, expires_at=expires_at)

    def become(self, state: SessionState) -> None:
        """The catalog has moved it."""
        self.record = replace(self.record, state=state)

    def know_hash(self, file_hash: str) -> None:
        """The catalog has recorded its declaration."""
        self.record = replace(self.record, file_hash=file_hash)

    def take_whole(self) -> None:
        """A checked copy fills it, without a chunk."""
        self.stored = RangeSet([(0, self.total)])
        self.checked = self.stored.copy()

    def forget_stored(self) -> None:
        """Begin from nothing: the copy it was to be made of is not what it should be."""
        self.stored = RangeSet()
        self.checked = RangeSet()

    def shift(self, seconds: float) -> None:
        """Move its times: the wall clock was stepped."""
        record = self.record
        self.record = replace(record, expires_at=record.expires_at + seconds, created=record.created + seconds)
