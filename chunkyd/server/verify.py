"""Hashing the whole while it still comes in (rule 6): each session's checked prefix is followed, bite by bite.

- Bytes are read back from the page cache soon after they were written; at the end only the tail is left.
- Bites of all sessions take turns, so a big file delays no small one by more than a bite.
- Hashing state lives in memory only: after a restart the prefix is read again.
- Bytes may be hashed before their group commit is through. Where that fails they may come again with other content:
  `rewind` then begins anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

from chunkyd.errors import StateError
from chunkyd.server.handles import Handles
from chunkyd.server.session import LiveSession
from chunkyd.server.threads import HASHERS, Threads
from chunkyd.storage.base import Partial

BITE_BYTES = 8 << 20
READ_BYTES = 1 << 20


class WrongLength(Exception):
    """The partial is shorter than what is stored of it, or longer than the file, by somebody's hand or a disk's."""


class _Following:
    """One session's hash so far."""

    def __init__(self, session: LiveSession) -> None:
        self.session = session
        self.hash = hashlib.sha256()
        self.position = 0
        self.reading_to = 0  # where the bite under way ends: what it has read already, nobody else can tell
        self.queued = False
        self.whole: asyncio.Future[str] | None = None

    @property
    def hungry(self) -> bool:
        return self.position < self.session.checked.prefix

    def settle(self) -> None:
        """Tell whoever waits for the whole, once it is."""
        whole = self.whole
        if whole is not None and not whole.done() and self.position == self.session.total:
            whole.set_result(self.hash.hexdigest())

    def fail(self, error: BaseException) -> None:
        if self.whole is not None and not self.whole.done():
            self.whole.set_exception(error)
            self.whole.exception()  # nobody may be waiting any more: that is no mistake to be logged


class Verifier:
    """Follows the prefixes of all sessions, a few at a time."""

    def __init__(self, handles: Handles, threads: Threads) -> None:
        self._handles = handles
        self._threads = threads
        self._following: dict[str, _Following] = {}
        self._queue: deque[_Following] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    def follow(self, session: LiveSession) -> None:
        """The session's checked bytes have grown."""
        following = self._following.get(session.session_id)
        if following is None:
            if not session.checked.prefix:
                return
            following = self._following[session.session_id] = _Following(session)
        self._enqueue(following)

    async def digest(self, session: LiveSession) -> str:
        """The SHA-256 of the whole, in hexadecimal; every byte must be checked. Raises WrongLength, and what reading
        raises.
        """
        following = self._following.get(session.session_id)
        if following is None:
            following = self._following[session.session_id] = _Following(session)
        if following.whole is None:
            following.whole = asyncio.get_running_loop().create_future()
        self._enqueue(following)
        following.settle()
        return await asyncio.shield(following.whole)

    def rewind(self, session: LiveSession, start: int) -> None:
        """Bytes from `start` on may come again with other content."""
        following = self._following.get(session.session_id)
        if following is not None and following.reading_to > start:
            self.forget(session)

    def forget(self, session: LiveSession) -> None:
        """Drop the state; a bite under way ends without effect, and whoever follows next begins anew."""
        following = self._following.pop(session.session_id, None)
        if following is not None:
            following.fail(StateError("the hash of this session was begun anew"))

    def stop(self) -> None:
        """Begin no further bite."""
        self._queue.clear()
        for worker in self._workers:
            worker.cancel()

    def _enqueue(self, following: _Following) -> None:
        if following.hungry and not following.queued:
            following.queued = True
            self._queue.append(following)
        if self._queue and len(self._workers) < HASHERS:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        while self._queue:
            following = self._queue.popleft()
            session = following.session
            if self._following.get(session.session_id) is not following:
                continue
            try:
                async with self._handles.use(session.session_id) as partial:
                    stop = min(session.checked.prefix, following.position + BITE_BYTES)
                    following.reading_to = stop
                    await self._threads.hash(_bite, following, partial, stop)
            except Exception as error:  # noqa: BLE001 — whoever waits for the digest raises it
                self._following.pop(session.session_id, None)
                following.fail(error)
                continue
            following.settle()
            following.queued = following.hungry
            if following.queued:
                self._queue.append(following)


def _bite(following: _Following, partial: Partial, stop: int) -> None:
    """Hash up to `stop`; nobody else touches `position` and `hash` while it is queued."""
    while following.position < stop:
        data = partial.read(following.position, min(READ_BYTES, stop - following.position))
        if not data:
            raise WrongLength
        following.hash.update(data)
        following.position += len(data)
    total = following.session.total
    if following.position == total and partial.read(total, 1):
        raise WrongLength
