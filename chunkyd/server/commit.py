"""Group commit: chunks that wait at the same time share one sync of each file and one transaction.

The order makes `stored` true: bytes synced, then recorded, then memory, then the answers. While one group is on its
way the next one gathers, so the more clients there are the fewer syncs each of them costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from chunkyd.catalog.base import Catalog, StoredRange
from chunkyd.checkpoints import reached
from chunkyd.protocol.ranges import Range
from chunkyd.server.session import LiveSession
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Partial

log = logging.getLogger("chunkyd.server")


class _Waiting:
    def __init__(self, session: LiveSession, partial: Partial, ranges: Sequence[Range]) -> None:
        self.session = session
        self.partial = partial
        self.ranges = ranges
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class GroupCommit:
    """Makes written chunks stored ones. `deadline` gives a session's renewed deadline."""

    def __init__(self, catalog: Catalog, threads: Threads, deadline: Callable[[LiveSession], float]) -> None:
        self._catalog = catalog
        self._threads = threads
        self._deadline = deadline
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None
        self.between_groups = asyncio.Lock()  # held while a group is on its way: deadlines must not be shifted then

    async def store(self, session: LiveSession, partial: Partial, ranges: Sequence[Range]) -> None:
        """Return when these bytes are stored; raises what the sync or the catalog raised, and then nothing counts."""
        item = _Waiting(session, partial, ranges)
        self._waiting.append(item)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        await item.done

    async def _run(self) -> None:
        while self._waiting:
            async with self.between_groups:
                group, self._waiting = self._waiting, []
                try:
                    await self._commit(group)
                except BaseException as error:
                    for item in group:
                        item.fail(error)
                    if not isinstance(error, Exception):
                        raise

    async def _commit(self, group: list[_Waiting]) -> None:
        reached("server.chunk.syncing")
        synced = await self._sync(group)
        reached("server.chunk.synced")
        deadlines = {item.session.session_id: self._deadline(item.session) for item in synced}
        batch = [
            StoredRange(item.session.session_id, start, stop, deadlines[item.session.session_id])
            for item in synced
            for start, stop in item.ranges
        ]
        if not batch:
            return
        await self._threads.record(self._catalog.record_stored, batch)
        reached("server.chunk.recorded")
        for item in synced:
            item.session.store(item.ranges, deadlines[item.session.session_id])
            item.succeed()

    async def _sync(self, group: list[_Waiting]) -> list[_Waiting]:
        """Sync each file once; those whose sync failed are told and left out."""
        files = list({id(item.partial): item.partial for item in group}.values())
        results = await asyncio.gather(*(self._threads.record(file.sync) for file in files), return_exceptions=True)
        failed = {
            id(file): result for file, result in zip(files, results, strict=True) if isinstance(result, BaseException)
        }
        for item in group:
            if id(item.partial) in failed:
                item.fail(failed[id(item.partial)])
        return [item for item in group if id(item.partial) not in failed]
