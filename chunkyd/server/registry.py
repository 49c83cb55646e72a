"""The sessions of this server: those that may yet publish live in memory, all others are read from the catalog.

- While the server runs, memory is the truth about live sessions and the catalog follows; nobody else changes them,
  but an administrator may expire one (see the janitor).
- Another user's session is looked for in the catalog like one that never existed, so that not even the time an
  answer takes tells them apart (rule 11).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from chunkyd.catalog.base import ACTIVE_STATES, Catalog, SessionRecord, SessionState
from chunkyd.checkpoints import reached
from chunkyd.errors import ChunkyError, Problem, StorageFull
from chunkyd.protocol.problems import problem
from chunkyd.server.ledger import Ledger
from chunkyd.server.session import LiveSession
from chunkyd.server.steady import SteadyTime
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Storage

RECONCILED = 2000  # sessions in one round

log = logging.getLogger("chunkyd.server")


_READINGS = 3  # of a record that changes while it is read


class Registry:
    """Finds, adds, drops and expires sessions."""

    def __init__(
        self, storage: Storage, catalog: Catalog, threads: Threads, ledger: Ledger, time: SteadyTime, ttl: float
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._threads = threads
        self._ledger = ledger
        self._time = time
        self._ttl = ttl
        self._by_idempotency: dict[bytes, LiveSession] = {}
        self._to_reconcile: list[str] = []
        self._to_clear: dict[str, Callable[[str], None]] = {}  # not live, and on record as if they were
        self.live: dict[str, LiveSession] = {}

    def load(self) -> None:
        """Take up what a former run left (blocks); partials nobody knows any more are removed."""
        records = [record for record in self._catalog.sessions() if record.state in ACTIVE_STATES]
        for record in records:
            if record.state is SessionState.PUBLISHING:
                self.add(LiveSession(record, [(0, record.total_bytes)]))
            elif self._storage.inode(record.session_id) is None:
                log.error("session %.8s: its partial file is gone; the session is forgotten", record.session_id)
                self._catalog.end(record.session_id)
                reached("server.session.forgotten")
            else:
                self.add(LiveSession(record, self._catalog.stored(record.session_id)))
        for session_id in list(self._storage.partials()):
            if session_id not in self.live:
                self._storage.discard(session_id)

    def add(self, session: LiveSession) -> None:
        """A new live session."""
        self.live[session.session_id] = session
        if session.record.idempotency is not None:
            self._by_idempotency[session.record.idempotency] = session
        self._ledger.count(session)

    def drop(self, session: LiveSession) -> None:
        """It is complete, dead, ended or expired: memory needs it no longer."""
        self.live.pop(session.session_id, None)
        if session.record.idempotency is not None:
            self._by_idempotency.pop(session.record.idempotency, None)
        self._ledger.count(session)

    def count(self, session: LiveSession) -> None:
        """Something of the session has changed: keep the ledger true."""
        self._ledger.count(session)

    def same_initiate(self, idempotency: bytes | None) -> LiveSession | None:
        """The live session that the same initiate opened before."""
        return self._by_idempotency.get(idempotency) if idempotency is not None else None

    async def find(self, user: str, session_id: str) -> LiveSession:
        """The user's session, still in time. Raises invalid-session-id, session-expired."""
        session = self.live.get(session_id)
        if session is None or session.record.user != user:
            session = await self._look_up(user, session_id)
        if session.state is SessionState.EXPIRED:
            raise expired()
        if session.expired(self._time.now()):
            await self.expire(session)
            raise expired()
        return session

    async def _look_up(self, user: str, session_id: str) -> LiveSession:
        """Not live: complete, dead, a tombstone, another's, or none. One that came alive meanwhile is that one."""
        for _ in range(_READINGS):
            record = await self._threads.record(self._catalog.session, session_id)
            if record is None or record.user != user:
                break
            session = self.adopt(record)
            if session is not None:
                return session
        raise unknown()

    def adopt(self, record: SessionRecord) -> LiveSession | None:
        """The live session of this record, or one for the answer only; None: it has changed since it was read."""
        session = self.live.get(record.session_id)
        if session is not None:
            return session
        if record.state in ACTIVE_STATES and record.expires_at > self._time.now():
            return None
        return LiveSession(record)

    async def expire(self, session: LiveSession) -> None:
        """Make it a tombstone. Where the catalog cannot be written the janitor tries again; it is gone either way."""
        session.gone = True
        self.drop(session)
        try:
            await self._threads.record(self._expire, session.session_id)
        except (ChunkyError, OSError) as error:
            log.warning("session %.8s: expired, but not yet cleared away: %s", session.session_id, error)

    def _expire(self, session_id: str) -> None:
        try:
            over = self._catalog.expire(session_id, self._time.now() + self._ttl)
        except StorageFull:
            self._storage.discard(session_id)  # nobody can want its bytes any more, and they make the room
            over = self._catalog.expire(session_id, self._time.now() + self._ttl)
        if over:
            reached("server.expiry.recorded")
            self._storage.discard(session_id)

    async def lose(self, session: LiveSession) -> Problem:
        """Its partial is gone from the disk, by somebody else's hand: forget it; the answer to its client."""
        log.error("session %.8s: its partial file is gone; the session is forgotten", session.session_id)
        session.gone = True
        self.drop(session)
        await self._clear(session.session_id, self._catalog.end)
        return unknown()

    async def abandon(self, session_id: str) -> None:
        """A session that failed while it was opened: its record, if there is one by now, was never to be."""
        await self._clear(session_id, self._catalog.forget)

    async def _clear(self, session_id: str, forget: Callable[[str], None]) -> None:
        self._to_clear[session_id] = forget
        await self.clear()

    async def clear(self) -> None:
        """Take off the record what is not live. What cannot be now stays to be cleared, by housekeeping, or by the next
        initiate with its key, which would find neither a session nor the way to a new one.
        """
        for session_id, forget in list(self._to_clear.items()):
            try:
                await self._threads.record(forget, session_id)
                await self._threads.record(self._storage.discard, session_id)
            except (ChunkyError, OSError) as error:
                log.warning("session %.8s: lost, but not yet cleared away: %s", session_id, error)
                return
            self._to_clear.pop(session_id, None)

    async def sweep(self, limit: int = 256) -> None:
        """Expire what is due and purge tombstones, in bites; what is busy stays, and is passed over."""
        await self.clear()
        while await self._threads.record(self._catalog.purge_wishes, self._time.now(), limit) == limit:
            pass
        asked = limit
        while True:
            due = await self._threads.record(self._catalog.due, self._time.now(), asked)
            passed_over = 0
            for record in due:
                passed_over += not await self._sweep_one(record)
            if len(due) < asked or len(due) == passed_over:
                return
            asked = limit + passed_over

    async def _sweep_one(self, record: SessionRecord) -> bool:
        session = self.live.get(record.session_id)
        if record.state is SessionState.EXPIRED:
            if session is None:
                await self._threads.record(self._catalog.end, record.session_id)
                reached("server.tombstone.removed")
            return session is None
        if session is None and record.state is SessionState.PUBLISHING:
            return False  # of a batch that is on its way
        if session is None:
            await self._threads.record(self._expire, record.session_id)
            return True
        if session.expired(self._time.now()):
            await self.expire(session)
            return True
        return False

    async def reconcile(self) -> None:
        """Let go of sessions that were expired or removed in the catalog by somebody else, an administrator.

        Some at a time, all in turn: each costs a question to the catalog.
        """
        if not self._to_reconcile:
            self._to_reconcile = list(self.live)
        some, self._to_reconcile = self._to_reconcile[:RECONCILED], self._to_reconcile[RECONCILED:]
        for session_id in await self._threads.record(self._foreign_ends, some):
            session = self.live.get(session_id)
            if session is not None and not session.busy:
                session.gone = True
                self.drop(session)
                reached("server.foreign-end.seen")
                await self._threads.record(self._storage.discard, session_id)

    def _foreign_ends(self, session_ids: list[str]) -> list[str]:
        records = {session_id: self._catalog.session(session_id) for session_id in session_ids}
        return [key for key, record in records.items() if record is None or record.state not in ACTIVE_STATES]

    def shift(self, seconds: float) -> None:
        """The wall clock was stepped: every deadline in memory goes with it."""
        for session in self.live.values():
            session.shift(seconds)


def unknown() -> Problem:
    """No such session, or not this user's."""
    return problem("invalid-session-id", "No session of this ID is known; begin a new one.")


def expired() -> Problem:
    """It was there once."""
    return problem("session-expired", "This session's time is over and its bytes are gone; begin a new one.")
