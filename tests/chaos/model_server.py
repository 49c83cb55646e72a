"""A server made of the session rules, memory storage and a memory catalog: no HTTP, no threads, one step at a time.

A crash loses all but storage and catalog. Between a chunk's steps (admitted, written, recorded, verified) anything may
come, a crash too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

from chunkyd.catalog.base import ACTIVE_STATES, SessionRecord, SessionState, StoredRange, TooLate, Wish
from chunkyd.catalog.memory import MemoryCatalog
from chunkyd.errors import Problem
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import Range
from chunkyd.server.opening import too_late
from chunkyd.server.registry import expired, unknown
from chunkyd.server.session import Claim, LiveSession
from chunkyd.storage.memory import MemoryStorage
from tests.chaos.ledger import hash_of

TTL = 100.0
MAX_CHUNK = 25


@dataclasses.dataclass
class Work:
    """An admitted chunk, its body on the way."""

    session: LiveSession
    claim: Claim
    body: bytes


class ModelServer:
    """One user's sessions for one path."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.catalog = MemoryCatalog()
        self.live: dict[str, LiveSession] = {}
        self.work: list[Work] = []
        self.published: list[bytes] = []
        self._winner = 0  # the sequence of what is published
        self._numbers = itertools.count(1)

    def initiate(self, content: bytes, key: bytes, order: int, now: float) -> LiveSession:
        """Open a session, or find the one that this initiate has opened before; session-expired once that is over."""
        for session in self.live.values():
            if session.record.idempotency == key and not session.expired(now):
                return session
        there = bool(self.published) and self.published[-1] == content
        record = SessionRecord(
            session_id=f"session{next(self._numbers):04}",
            sequence=0,
            user="user",
            file_hash=hash_of(content),
            total_bytes=len(content),
            target=b"file",
            state=SessionState.COMPLETE if there else SessionState.RECEIVING,
            created=now,
            expires_at=now + TTL,
            idempotency=key,
        )
        try:
            added = self.catalog.add_session(record, Wish(b"file", order))
        except TooLate as error:
            raise too_late() from error
        if added.session_id == record.session_id and not there:
            self.storage.create(record.session_id, len(content))
        if added.state in ACTIVE_STATES:
            return self.live.setdefault(added.session_id, LiveSession(added))
        if there:
            self._winner = max(self._winner, added.sequence)
        return LiveSession(added)

    def find(self, session_id: str, now: float) -> LiveSession:
        """The session; raises what the protocol says where there is none."""
        record = self.catalog.session(session_id)
        if record is None:
            raise unknown()
        session = self.live.get(session_id) or LiveSession(record)
        if session.state is SessionState.EXPIRED:
            raise expired()
        if session.expired(now):
            self._expire(session, now)
            raise expired()
        session.require_alive()
        return session

    def _expire(self, session: LiveSession, now: float) -> None:
        session.gone = True
        self.live.pop(session.session_id, None)
        self.catalog.expire(session.session_id, now + TTL)
        self.storage.discard(session.session_id)

    def admit(self, session_id: str, chunk: Range, body: bytes, now: float) -> Work | None:
        """The head of a chunk; None where it is stored already."""
        session = self.find(session_id, now)
        claim = session.admit(chunk, session.total, MAX_CHUNK)
        if claim is None:
            return None
        session.claim(claim)
        session.busy += 1
        work = Work(session, claim, body)
        self.work.append(work)
        return work

    def finish(self, work: Work, outcome: str, now: float) -> None:
        """Its body: `whole`, `cut` or `corrupt`; raises the refusal."""
        self.work.remove(work)
        session, (start, stop) = work.session, work.claim.chunk
        length = {"whole": stop - start, "cut": (stop - start) // 2, "corrupt": stop - start}[outcome]
        try:
            if not session.gone:
                self._write(work, length, flip=outcome == "corrupt")
            if session.gone:
                raise unknown()
            if outcome != "whole":
                raise problem("chunk-length-mismatch" if outcome == "cut" else "chunk-digest-mismatch", "again")
            session.check([work.claim.chunk])
            self.catalog.record_stored([StoredRange(session.session_id, start, stop, now + TTL)])
            session.store([work.claim.chunk], now + TTL)
        finally:
            session.release(work.claim)
            session.busy -= 1

    def _write(self, work: Work, length: int, *, flip: bool) -> None:
        start = work.claim.chunk[0]
        with contextlib.closing(self.storage.open(work.session.session_id)) as partial:
            for first, last in work.claim.writes:
                piece = work.body[first - start : min(last - start, length)]
                partial.write(first, bytes(byte ^ 1 for byte in piece) if flip else piece)

    def verify(self) -> None:
        """Every session of which all is stored is published, or dead."""
        for session in list(self.live.values()):
            if not session.all_stored or session.gone:
                continue
            content = self.content(session)
            if hash_of(content) != session.record.file_hash:
                self.catalog.move(session.session_id, ACTIVE_STATES, SessionState.DEAD)
                session.become(SessionState.DEAD)
            else:
                self.catalog.move(session.session_id, ACTIVE_STATES, SessionState.COMPLETE)
                session.become(SessionState.COMPLETE)
                if session.record.sequence > self._winner:  # rule 9: of two, the one initiated later wins
                    self._winner = session.record.sequence
                    self.published.append(content)
            del self.live[session.session_id]
            self.storage.discard(session.session_id)

    def content(self, session: LiveSession) -> bytes:
        """The bytes of its partial, stored or not."""
        with contextlib.closing(self.storage.open(session.session_id)) as partial:
            return partial.read(0, session.total)

    def end(self, session_id: str, now: float) -> None:
        """Forget it; raises session-not-found."""
        try:
            session = self.find(session_id, now)
        except Problem as found:
            if found.name == "digest-mismatch":
                self.catalog.end(session_id)
                return
            raise
        session.gone = True
        self.live.pop(session_id, None)
        self.catalog.end(session_id)
        self.storage.discard(session_id)

    def crash(self, written: int) -> None:
        """Die, some bytes of every chunk under way written; begin again from storage and catalog."""
        for work in self.work:
            if not work.session.gone:
                self._write(work, written, flip=False)
        self.work.clear()
        self.live = {
            record.session_id: LiveSession(record, self.catalog.stored(record.session_id))
            for record in self.catalog.sessions()
            if record.state in ACTIVE_STATES
        }
