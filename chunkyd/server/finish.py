"""What happens after the last byte: hash, decide, publish; and the copying of a version the user already has.

One task for each session that is so far. Full disks, broken catalogs and folders that take no name make it wait and try
again: what is stored stays stored, the session stays `verifying`, and who asks for its status is told what hinders it,
so that a client can turn to other files. An end is honoured until publishing has begun, and waits afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import defaultdict

from msgspec.structs import replace

from chunkyd.catalog.base import ACTIVE_STATES, Catalog, SessionState
from chunkyd.checkpoints import reached
from chunkyd.errors import ChunkyError, Problem, StorageFull
from chunkyd.protocol.paths import readable
from chunkyd.protocol.problems import problem
from chunkyd.server.publish import Publisher, SessionLost, Stopped
from chunkyd.server.registry import Registry
from chunkyd.server.session import LiveSession
from chunkyd.server.threads import Threads
from chunkyd.server.verify import Verifier, WrongLength
from chunkyd.storage.base import FileInTheWay, NameRefused, PathConflict, Storage

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 30.0
STOP_SECONDS = 2.0

log = logging.getLogger("chunkyd.server")


class Finisher:
    """Takes sessions from all-stored, or copying, to their outcome."""

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        threads: Threads,
        registry: Registry,
        verifier: Verifier,
        publisher: Publisher,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._threads = threads
        self._registry = registry
        self._verifier = verifier
        self._publisher = publisher
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self.user_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def start(self, session: LiveSession) -> None:
        """Go on with this session, if there is something to go on with and nobody does already."""
        ready = session.state in ACTIVE_STATES and session.status() == "verifying" and not session.gone
        if ready and session.session_id not in self._tasks:
            session.refusal = None
            session.busy += 1
            task = asyncio.create_task(self._run(session))
            self._tasks[session.session_id] = task

    def hasten(self, session: LiveSession) -> None:
        """Somebody asks who may have mended what hinders it: it is tried again a second after the last try."""
        if session.session_id in self._asked:
            self._asked[session.session_id].set()

    async def wait(self, session: LiveSession, seconds: float | None) -> None:
        """Return when its outcome is known, or after so many seconds."""
        task = self._tasks.get(session.session_id)
        if task is not None:
            await asyncio.wait({task}, timeout=seconds)

    async def stop(self) -> None:
        """Let publications under way come to their end, leave everything else to the next start."""
        self._publisher.stop()
        for session_id, task in self._tasks.items():
            session = self._registry.live.get(session_id)
            if session is None or not session.publishing:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=STOP_SECONDS)

    async def _run(self, session: LiveSession) -> None:
        delay, said = FIRST_RETRY_SECONDS, ""
        asked = self._asked[session.session_id] = asyncio.Event()
        try:
            while not session.gone:
                asked.clear()
                told = session.refusal
                hindrance = await self._try(session)
                if hindrance is None:
                    if session.refusal is told:  # and not what this try has found
                        session.refusal = None
                    return
                session.refusal = _told(hindrance, delay)
                if said != str(hindrance):
                    said = str(hindrance)
                    trace = None if isinstance(hindrance, ChunkyError | OSError) else hindrance
                    text = "session %.8s: not finished yet, trying again: %s"
                    log.warning(text, session.session_id, said, exc_info=trace)
                await asyncio.sleep(FIRST_RETRY_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asked.wait(), delay - FIRST_RETRY_SECONDS)
                delay = min(LAST_RETRY_SECONDS, delay * 2)
        except Stopped:
            return
        finally:
            session.busy -= 1
            self._tasks.pop(session.session_id, None)
            self._asked.pop(session.session_id, None)

    async def _try(self, session: LiveSession) -> Exception | None:
        """None where nothing is left to be done. Whatever fails is tried again: nobody else would."""
        try:
            try:
                await self._finish(session)
            except FileNotFoundError:
                if not await self._is_lost(session):
                    raise
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  # said, told, and tried again
            return error
        return None

    async def _is_lost(self, session: LiveSession) -> bool:
        """Whether it is the partial that is not there; else somebody has moved a folder on the way to the target."""
        if session.gone:
            return True
        if await self._threads.record(self._storage.inode, session.session_id) is not None:
            return False
        await self._registry.lose(session)
        return True

    async def _finish(self, session: LiveSession) -> None:
        if not session.publishing and not await self._is_ready(session):
            return
        async with self.user_locks[session.record.user]:
            if not session.gone:
                session.publishing = True  # stays so over retries: only an outcome ends it
                await self._publish(session)

    async def _is_ready(self, session: LiveSession) -> bool:
        """Whether the partial holds the file; where it does not the session has become something else."""
        if session.state is SessionState.COPYING:
            if await self._threads.copy(self._publisher.copy, session.record):
                session.take_whole()
                return True
            await self._fall_back(session)
            return False
        if await self._is_whole(session):
            reached("server.verdict.right")
            return True
        reached("server.verdict.wrong")
        await self._kill(session)
        return False

    async def _is_whole(self, session: LiveSession) -> bool:
        """Whether the bytes are the hash's. A crash after the rename left no partial: they were checked before it."""
        if session.state is SessionState.PUBLISHING:
            inode = await self._threads.record(self._storage.inode, session.session_id)
            if inode is None:
                return True
        try:
            return await self._verifier.digest(session) == session.record.file_hash
        except WrongLength:
            log.error(
                "session %.8s: its partial file is shorter than what was stored of it, or longer", session.session_id
            )
            return False

    async def _publish(self, session: LiveSession) -> None:
        name = session.session_id
        try:
            await self._threads.record(self._publisher.publish, name)
        except PathConflict as error:
            session.become(SessionState.RECEIVING)
            session.refusal = path_problem(error)
            session.publishing = False
            return
        except SessionLost:
            session.gone = True
        else:
            session.become(SessionState.COMPLETE)
            path = readable(session.record.target)
            log.info("session %.8s: complete: %s of %s, %d bytes", name, path, session.record.user, session.total)
        session.publishing = False
        self._registry.drop(session)
        self._verifier.forget(session)

    async def _kill(self, session: LiveSession) -> None:
        """The bytes are not the file: nothing is published, the space is freed, the session answers so from now on."""
        name = session.session_id
        await self._threads.record(self._catalog.move, name, ACTIVE_STATES, SessionState.DEAD)
        reached("server.verdict.recorded")
        session.become(SessionState.DEAD)
        self._registry.drop(session)
        self._verifier.forget(session)
        log.warning("session %.8s: the bytes are not those of the hash; nothing is published", name)
        await self._threads.record(self._storage.discard, name)

    async def _fall_back(self, session: LiveSession) -> None:
        """The kept version is not what it was: an ordinary upload, from its first byte."""
        log.warning("session %.8s: the kept version does not match any more", session.session_id)
        async with self.user_locks[session.record.user]:
            moved = await self._threads.record(self._publisher.abandon_copy, session.record)
        if moved:
            # `reserved` stays: its new partial has its space from the same file system as the one before.
            session.record = replace(session.record, state=SessionState.RECEIVING, copy_of=None)
            session.forget_stored()
        self._registry.count(session)


def _told(hindrance: Exception, retry_after: float) -> Problem:
    """What a client is told of a try that failed; the server's paths are in its own log."""
    if isinstance(hindrance, StorageFull):
        return problem("storage-full", "", retry_after=retry_after)
    why = os.strerror(hindrance.errno) if isinstance(hindrance, OSError) and hindrance.errno else "its log says why"
    text = (
        f"All bytes are stored, but the server cannot put the file in its place yet: {why}. It tries again by itself."
    )
    return problem("internal", text, retry_after=FIRST_RETRY_SECONDS)  # to ask is to hasten


def path_problem(found: PathConflict) -> Problem:
    """Why the path cannot become a file."""
    if isinstance(found, NameRefused):
        text = (
            "The server's file system takes no such name: it is too long there, or has characters it lacks."
            " Rename the file."
        )
        return problem("malformed-request", text)
    if isinstance(found, FileInTheWay):
        text = "A newer file stands where a folder of this path should be; move it away, or send the file elsewhere."
        return problem("path-conflict", text)
    text = "A folder that is not empty stands at this path; move it away, or send the file under another path."
    return problem("path-conflict", text)
