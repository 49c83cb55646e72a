"""Opening sessions: everything that is judged at an initiate (rules 8 to 10 of the protocol).

The order: hash or version, size, the same initiate again, the user's own version, the user's allowance, space. A
partial is made before its session is recorded, so a crash in between leaves a file nobody knows, which the next start
removes.
"""

from __future__ import annotations

import errno
import hashlib
import secrets

from msgspec.structs import replace

from chunkyd.catalog.base import Catalog, SessionRecord, SessionState, TooLate, Wish
from chunkyd.checkpoints import reached
from chunkyd.errors import Problem
from chunkyd.protocol.digests import is_file_hash
from chunkyd.protocol.late_hash import is_file_version
from chunkyd.protocol.messages import EMPTY_FILE_HASH, Initiate
from chunkyd.protocol.problems import problem
from chunkyd.server.allowance import Allowances
from chunkyd.server.finish import Finisher
from chunkyd.server.ledger import Ledger
from chunkyd.server.publish import Publisher
from chunkyd.server.registry import Registry
from chunkyd.server.session import LiveSession
from chunkyd.server.steady import SteadyTime
from chunkyd.server.threads import Threads
from chunkyd.settings import Limits
from chunkyd.storage.base import Storage

SMALL_BYTES = 8 << 20  # a copy of so much is made while the request waits
SMALL_WAIT_SECONDS = 5.0
TURNS = 3
SESSION_ID_BYTES = 16  # 128 random bits


class Opener:
    """Opens sessions."""

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        threads: Threads,
        registry: Registry,
        ledger: Ledger,
        publisher: Publisher,
        finisher: Finisher,
        time: SteadyTime,
        limits: Limits,
        allowances: Allowances,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._threads = threads
        self._registry = registry
        self._ledger = ledger
        self._publisher = publisher
        self._finisher = finisher
        self._time = time
        self._limits = limits
        self._allowances = allowances

    async def open(self, user: str, request: Initiate, idempotency: bytes | None) -> LiveSession:
        """A new session, or the one this same initiate opened before. Raises session-expired where it is too late."""
        judge(request, self._limits)
        try:
            session = await self._session(user, request, idempotency)
        except TooLate as error:
            raise too_late() from error
        if session.status() == "verifying":
            self._finisher.start(session)
            if session.total <= SMALL_BYTES:
                await self._finisher.wait(session, SMALL_WAIT_SECONDS)
        session.require_alive()
        session.require_place()
        return session

    async def _session(self, user: str, request: Initiate, idempotency: bytes | None) -> LiveSession:
        """The one that was opened before and still lives; the next turn finds what has changed during this one."""
        for _ in range(TURNS):
            session = self._registry.same_initiate(idempotency)
            if session is None:
                record = new_record(user, request, self._time.now(), self._limits)
                session = await self._open(replace(record, idempotency=idempotency), wish_of(user, request))
            if session is not None and not session.expired(self._time.now()):
                return session
            if session is not None:
                await self._registry.expire(session)
            else:
                await self._registry.clear()
        raise problem("internal", "The session of this Idempotency-Key changes all the time; use another key.")

    async def _open(self, record: SessionRecord, wish: Wish | None) -> LiveSession | None:
        late = record.file_version is not None  # nobody can say yet which bytes it will be
        kept = [] if late else await self._threads.record(self._publisher.kept_versions, record)
        if kept and kept[0].path == record.target:
            async with self._finisher.user_locks[record.user]:
                try:
                    renewed = await self._threads.record(self._add_renewed, record, wish)
                except Exception:
                    await self._registry.abandon(record.session_id)
                    raise
            if renewed is not None:
                return self._registry.adopt(renewed)
        if kept and record.total_bytes:
            record = replace(record, state=SessionState.COPYING, copy_of=kept[0].path)
        async with self._allowances.of(record.user) as rest:
            rest.take(record.total_bytes)
            # The loop asks the disk itself: an answer as old as a thread's way back could be given to two sessions.
            with self._ledger.opening(record.total_bytes, self._storage.free_bytes()):
                added = await self._threads.record(self._create, record, wish)
                if added.session_id != record.session_id:
                    return self._registry.adopt(added)
                session = LiveSession(added)
            self._registry.add(session)
        return session

    def _add_renewed(self, record: SessionRecord, wish: Wish | None) -> SessionRecord | None:
        """Only attributes change, no byte is needed; None where the kept file has changed since it was looked at."""
        added = self._catalog.add_session(record, wish)
        reached("server.renewal.recorded")
        if added.session_id != record.session_id:
            return added
        if self._publisher.renew(added):
            return replace(added, state=SessionState.COMPLETE)
        self._catalog.forget(added.session_id)  # it begins anew, with its key
        return None

    def _create(self, record: SessionRecord, wish: Wish | None) -> SessionRecord:
        try:
            reserved = self._storage.create(record.session_id, record.total_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            text = f"The server's file system takes no file of {record.total_bytes} bytes."
            raise problem("file-too-large", text) from error
        try:
            added = self._catalog.add_session(replace(record, reserved=reserved), wish)
        except BaseException:
            self._storage.discard(record.session_id)
            raise
        reached("server.session.recorded")
        if added.session_id != record.session_id:
            self._storage.discard(record.session_id)
        return added


def judge(request: Initiate, limits: Limits) -> None:
    """Raise the Problem of a version that cannot be."""
    if request.file_version is not None:
        if not is_file_version(request.file_version):
            text = "fileVersion is none: v1. and 16 to 64 letters, digits, - and _."
            raise problem("invalid-file-hash", text)
    elif not is_file_hash(request.file_hash):
        text = "fileHash is not the SHA-256 of the file: 64 lower-case hexadecimal digits."
        raise problem("invalid-file-hash", text)
    if request.total_bytes > limits.file:
        text = f"A file holds at most {limits.file} bytes here, this one {request.total_bytes}."
        raise problem("file-too-large", text)
    if not request.total_bytes and request.file_hash not in ("", EMPTY_FILE_HASH):
        text = "A file of no bytes has another hash; hash the file again and begin a new session."
        raise problem("digest-mismatch", text)


def new_record(user: str, request: Initiate, now: float, limits: Limits) -> SessionRecord:
    """A session that has just begun, not recorded yet."""
    age = limits.session_age
    return SessionRecord(
        session_id=secrets.token_hex(SESSION_ID_BYTES),
        sequence=0,
        user=user,
        file_hash=request.file_hash,
        total_bytes=request.total_bytes,
        target=request.path if request.path is not None else request.file_hash.encode("ascii"),
        state=SessionState.RECEIVING,
        created=now,
        expires_at=now + (limits.session_ttl if age is None else min(age, limits.session_ttl)),
        modified_ns=request.modified_ns,
        mode=request.mode,
        file_version=request.file_version,
    )


def wish_of(user: str, request: Initiate) -> Wish | None:
    """Which of its client's wishes for its path this is, where the client says so."""
    if request.client is None or request.order is None:
        return None
    path = request.path if request.path is not None else request.file_hash.encode("ascii")
    return Wish(_digest(user.encode("utf-8", "surrogatepass"), request.client.encode("ascii"), path), request.order)


def too_late() -> Problem:
    """What comes now was repeated, or held up, by something on the way; or its client's own records were set back.

    It must not be work: of two sessions on one path the later one wins, and a newer version may be there by now.
    """
    text = "This comes too late: its key is used up, or its client has begun something newer. Nothing was done now."
    return problem("session-expired", text)


def idempotency_digest(user: str, key: str, body: bytes) -> bytes:
    """What names an initiate: same user, key and body are the same initiate."""
    return _digest(user.encode("utf-8", "surrogatepass"), key.encode("utf-8", "surrogatepass"), body)


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
