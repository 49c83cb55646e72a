"""Open partials: one descriptor for each session somebody is working on, closed when the last one is done.

So a thousand idle sessions hold no descriptor, and after a failed sync the file is opened anew by itself, as soon as
all who saw the failure have let go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from chunkyd.server.threads import Threads
from chunkyd.storage.base import Partial, Storage


class _Entry:
    def __init__(self, opening: asyncio.Task[Partial]) -> None:
        self.opening = opening
        self.users = 0


class Handles:
    """The partials that are open."""

    def __init__(self, storage: Storage, threads: Threads) -> None:
        self._storage = storage
        self._threads = threads
        self._entries: dict[str, _Entry] = {}

    @contextlib.asynccontextmanager
    async def use(self, session_id: str) -> AsyncIterator[Partial]:
        """The session's partial, open as long as the block runs; raises FileNotFoundError where it is gone."""
        entry = self._entries.get(session_id)
        if entry is None:
            opening = asyncio.ensure_future(self._threads.record(self._storage.open, session_id))
            entry = self._entries[session_id] = _Entry(opening)
        entry.users += 1
        try:
            yield await asyncio.shield(entry.opening)
        finally:
            entry.users -= 1
            if not entry.users:
                self._forget(session_id, entry)
                entry.opening.add_done_callback(_close)

    def drop(self, session_id: str) -> None:
        """Whoever comes next opens it anew: its last sync may have failed, and this opening remembers that."""
        self._entries.pop(session_id, None)

    def _forget(self, session_id: str, entry: _Entry) -> None:
        if self._entries.get(session_id) is entry:
            del self._entries[session_id]


def _close(opening: asyncio.Task[Partial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
