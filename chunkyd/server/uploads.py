"""What the server does for its clients, without HTTP: other fronts may stand over it.

A front reads a request, asks here, and tells the outcome; all refusals are Problems. The order of the checks is the
protocol's, as far as they are made here: session and owner, expiry, file hash — then the front reads its headers —
bounds, size, dead or complete, already stored, in progress, space, length, digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Literal

import msgspec

from chunkyd.catalog.base import Catalog, SessionState
from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError, Problem, StorageFull
from chunkyd.protocol.batch import Outcome
from chunkyd.protocol.digests import Checker, is_file_hash
from chunkyd.protocol.late_hash import is_file_version
from chunkyd.protocol.messages import Initiate, Status
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import Range
from chunkyd.server.allowance import Allowances
from chunkyd.server.batch import Batches
from chunkyd.server.commit import GroupCommit
from chunkyd.server.finish import Finisher
from chunkyd.server.handles import Handles
from chunkyd.server.ledger import Ledger, storage_full
from chunkyd.server.opening import Opener
from chunkyd.server.probe import Probe
from chunkyd.server.publish import Publisher
from chunkyd.server.rebuild import Rebuild
from chunkyd.server.receive import Bodies, Body, Receiver
from chunkyd.server.registry import Registry, unknown
from chunkyd.server.session import Claim, LiveSession
from chunkyd.server.steady import SteadyTime
from chunkyd.server.threads import Threads
from chunkyd.server.verify import Verifier
from chunkyd.settings import Limits
from chunkyd.storage.base import Partial, Storage

OUTCOME_WAIT_SECONDS = 1.0  # so that small files need no status request
END_WAIT_SECONDS = 25.0

log = logging.getLogger("chunkyd.server")


class Chunk(msgspec.Struct, frozen=True):
    """What the head of a chunk says: its range, the file's size, the body's length and its digests."""

    range: Range
    total: int
    length: int
    digests: Mapping[str, bytes]


class Uploads:
    """All sessions of one server. Everything but `load` is called from the event loop."""

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        limits: Limits,
        clock: Clock,
        threads: Threads,
        *,
        keep_old: bool = False,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._limits = limits
        self._threads = threads
        self._time = SteadyTime(clock)
        self._ledger = Ledger(limits.reserve)
        self._bodies = Bodies()
        self._handles = Handles(storage, threads)
        self._receiver = Receiver(self._bodies, threads)
        self._verifier = Verifier(self._handles, threads)
        self._probe = Probe(storage, catalog, threads)
        self._commit = GroupCommit(catalog, threads, self._deadline)
        self._registry = Registry(storage, catalog, threads, self._ledger, self._time, limits.session_ttl)
        publisher = Publisher(storage, catalog, clock, keep_old=keep_old)
        self._finisher = Finisher(storage, catalog, threads, self._registry, self._verifier, publisher)
        self._rebuild = Rebuild(storage, catalog, threads, self._finisher.user_locks, clock)
        allowances = Allowances(catalog, threads, limits)
        self._opener = Opener(
            storage,
            catalog,
            threads,
            self._registry,
            self._ledger,
            publisher,
            self._finisher,
            self._time,
            limits,
            allowances,
        )
        self._batches = Batches(
            storage,
            threads,
            self._registry,
            self._ledger,
            publisher,
            self._finisher,
            self._receiver,
            self._time,
            limits,
            allowances,
        )

    def load(self) -> None:
        """Take up what a former run left; blocks, and comes before everything else."""
        self._registry.load()

    def resume(self) -> None:
        """Go on with what a former run had not finished: hashing, copies, publications."""
        for session in list(self._registry.live.values()):
            self._finisher.start(session)
            self._verifier.follow(session)

    async def rebuild(self) -> None:
        """Where the catalog was begun anew: record again what is published, beside everything else."""
        await self._rebuild.run()

    async def initiate(self, user: str, request: Initiate, idempotency: bytes | None = None) -> LiveSession:
        """Open a session; the same initiate again gets the same session."""
        try:
            return await self._opener.open(user, request, idempotency)
        except StorageFull as error:
            raise self._full(request.total_bytes) from error

    async def batch(
        self,
        user: str,
        length: int,
        digests: Mapping[str, bytes],
        body: Body,
        key: bytes | None = None,
    ) -> list[Outcome]:
        """Take many small files in one body, and say how each came out."""
        try:
            return await self._batches.receive(user, length, digests, body, key)
        except StorageFull as error:
            raise self._full(length) from error

    async def find(self, user: str, session_id: str) -> LiveSession:
        """The user's session. Raises invalid-session-id, session-expired."""
        return await self._registry.find(user, session_id)

    async def find_to_end(self, user: str, session_id: str) -> LiveSession:
        """The same for an end: what is not there, or no longer, is session-not-found."""
        try:
            return await self._registry.find(user, session_id)
        except Problem as error:
            raise _not_found() from error

    async def chunk(self, session: LiveSession, chunk: Chunk, body: Body) -> Status:
        """Store one chunk, and say how the session stands then."""
        claim = session.admit(chunk.range, chunk.total, self._limits.chunk)
        if claim is None:
            return await self._outcome(session)
        wanted = sum(stop - start for start, stop in claim.writes)
        self._ledger.check_chunk(session, wanted, self._storage.free_bytes())
        _check_length(chunk)
        session.claim(claim)
        session.busy += 1
        try:
            async with self._handles.use(session.session_id) as partial:
                await self._receiver.receive(session, partial, claim, Checker(chunk.digests), body)
                await self._store(session, partial, claim)
        except StorageFull as error:
            raise self._full(wanted) from error
        except FileNotFoundError as error:
            raise unknown() if session.gone else await self._registry.lose(session) from error
        except Problem:
            if session.gone:
                raise unknown() from None
            raise
        finally:
            session.release(claim)
            session.busy -= 1
        if session.gone:
            raise unknown()
        self._registry.count(session)
        return await self._outcome(session)

    async def _store(self, session: LiveSession, partial: Partial, claim: Claim) -> None:
        session.check([claim.chunk])  # the rest of it is stored, and so checked before
        self._verifier.follow(session)
        try:
            # What the claim left out is stored already: one range says all of it, however many gaps there were.
            await self._commit.store(session, partial, [claim.chunk])
        except BaseException:
            session.uncheck(claim.writes)
            self._verifier.rewind(session, claim.chunk[0])
            self._handles.drop(session.session_id)
            raise

    async def _outcome(self, session: LiveSession) -> Status:
        """The status; where this was the last chunk, wait a moment for what comes of it."""
        if session.all_stored:
            self._finisher.start(session)
            await self._finisher.wait(session, OUTCOME_WAIT_SECONDS)
        session.require_alive()
        session.require_place()
        return session.status()

    async def declare(self, session: LiveSession, file_hash: str) -> Status:
        """The hash of the whole, of a session that began without it; how the session stands then.

        Raises invalid-file-hash where it is none, or not the one the session has; digest-mismatch.
        """
        if not is_file_hash(file_hash):
            raise problem(
                "invalid-file-hash", "fileHash is not the SHA-256 of the file: 64 lower-case hexadecimal digits."
            )
        session.require_alive()
        if not session.hash_known:
            session.busy += 1
            try:
                await self._record_hash(session, file_hash)
            finally:
                session.busy -= 1
        if file_hash != session.record.file_hash:
            text = "Another hash was declared for this session; hash the file again and begin a new session."
            raise problem("invalid-file-hash", text)
        return await self._outcome(session)

    async def _record_hash(self, session: LiveSession, file_hash: str) -> None:
        """Of two that come at once the catalog takes one, and tells both which."""
        try:
            counting = await self._threads.record(self._catalog.declare, session.session_id, file_hash)
        except StorageFull as error:
            raise self._full(0) from error
        if counting is None or session.gone:
            raise unknown()
        reached("server.hash.recorded")
        session.know_hash(counting)

    async def status(self, session: LiveSession) -> LiveSession:
        """The session, for its status and missing ranges. Raises digest-mismatch, and what keeps it from its place."""
        session.require_alive()
        if session.refusal is not None and not session.refusal.retryable:  # its client may have made room meanwhile
            self._finisher.start(session)
            await self._finisher.wait(session, OUTCOME_WAIT_SECONDS)
        if session.refusal is not None:
            self._finisher.hasten(session)
            raise session.refusal
        return session

    async def end(self, session: LiveSession) -> Literal["ended", "cancelled"]:
        """Forget the session: "ended" where its file was published, "cancelled" else. Raises session-not-found."""
        while session.publishing:
            await self._finisher.wait(session, END_WAIT_SECONDS)
            if session.publishing:
                text = "The file is being published, and that takes long; end the session once more a little later."
                raise problem("internal", text, retry_after=5.0)
        if session.gone:
            raise _not_found()
        return await self._end(session)

    async def _end(self, session: LiveSession) -> Literal["ended", "cancelled"]:
        """From here on nobody finds it; where the catalog cannot forget it, it is as it was."""
        session.gone = True
        name = session.session_id
        try:
            await self._threads.record(self._catalog.end, name)
        except ChunkyError as error:
            session.gone = False
            self._finisher.start(session)
            if isinstance(error, StorageFull):
                raise self._full(0) from error
            raise
        reached("server.end.recorded")
        self._registry.drop(session)
        self._verifier.forget(session)
        if session.state is SessionState.COMPLETE:
            return "ended"
        await self._threads.record(self._storage.discard, name)
        return "cancelled"

    async def tick(self) -> None:
        """Housekeeping: clock steps, expiry, tombstones, what an administrator expired."""
        await self._follow_clock()
        await self._registry.sweep()
        await self._registry.reconcile()

    async def _follow_clock(self) -> None:
        """Rule 7: deadlines move with the wall clock. Between groups, so that none is recorded in the old time."""
        async with self._commit.between_groups:
            seconds = self._time.step()
            if not seconds:
                return
            log.warning("the clock was stepped by %.1f s; all deadlines go with it", seconds)
            await self._threads.record(self._catalog.shift_deadlines, seconds)
            self._time.shift(seconds)
            self._registry.shift(seconds)

    async def probe(self) -> None:
        """Raise StorageFull, StateError or OSError where nothing can be stored now."""
        await self._probe.outcome()

    def stop_bodies(self) -> None:
        """Refuse every chunk that is still being received."""
        self._bodies.stop()

    async def close(self) -> None:
        """Let publications end and hashing rest."""
        self._rebuild.stop()
        self._verifier.stop()
        await self._finisher.stop()
        await asyncio.sleep(0)

    def _deadline(self, session: LiveSession) -> float:
        return session.renewed(self._time.now(), self._limits.session_ttl, self._limits.session_age)

    def _full(self, required: int) -> Problem:
        return storage_full(required, self._ledger.available(self._storage.free_bytes()))


def check_hash(session: LiveSession, file_hash: str) -> None:
    """Raises invalid-file-hash where this is no hash, nor what stands for one, or not the session's."""
    if not is_file_hash(file_hash) and not is_file_version(file_hash):
        text = "Chunky-File-Hash is not the SHA-256 of a file, 64 lower-case hexadecimal digits, and no fileVersion."
        raise problem("invalid-file-hash", text)
    if file_hash != session.record.key:
        text = "This session uploads another version of a file; hash the file again and begin a new session."
        raise problem("invalid-file-hash", text)


def _check_length(chunk: Chunk) -> None:
    start, stop = chunk.range
    if chunk.length != stop - start:
        text = f"Content-Length is {chunk.length}, but Content-Range names {stop - start} bytes."
        raise problem("chunk-length-mismatch", text)


def _not_found() -> Problem:
    return problem("session-not-found", "It has ended before, or never began; after a complete upload that is fine.")
