"""Whether anything can be stored now, by storing something: a small file, and a row.

Anybody may ask, without a token, and each trial is two syncs: those who ask at the same time share one.
"""

from __future__ import annotations

import asyncio

from chunkyd.catalog.base import Catalog
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Storage


class Probe:
    """The trial under way, if there is one."""

    def __init__(self, storage: Storage, catalog: Catalog, threads: Threads) -> None:
        self._storage = storage
        self._catalog = catalog
        self._threads = threads
        self._trial: asyncio.Task[None] | None = None

    async def outcome(self) -> None:
        """Raise StorageFull, StateError or OSError where nothing can be stored now."""
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(self._try())
        await asyncio.shield(self._trial)

    async def _try(self) -> None:
        await self._threads.record(self._storage.probe)
        await self._threads.record(self._catalog.probe)
