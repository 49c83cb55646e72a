"""Where blocking work runs: the event loop itself never waits for a disk, a database or a hash.

Several pools, so that writers waiting for a slow disk, or a copy that takes hours, keep nobody else waiting. All
threads begin with the server: a pool that could not begin one when it is wanted would refuse the work, and do it later
all the same, when its range may be another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from chunkyd.threads import begun_pool

P = ParamSpec("P")
T = TypeVar("T")

WRITERS = 8
RECORDERS = 8
HASHERS = 2
COPIERS = 2


class Threads:
    """Four bounded pools."""

    def __init__(self) -> None:
        self._writers = begun_pool(WRITERS, "write")
        self._recorders = begun_pool(RECORDERS, "record")
        self._hashers = begun_pool(HASHERS, "hash")
        self._copiers = begun_pool(COPIERS, "copy")

    def begin_write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Work[T]:
        """The same, beside what the caller does next; who began it waits for its end."""
        return Work(self._writers, work, *args, **kwargs)

    async def write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Bytes of a body to the disk."""
        return await Work(self._writers, work, *args, **kwargs).ended()

    async def record(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Catalog, syncing, publishing."""
        return await Work(self._recorders, work, *args, **kwargs).ended()

    async def hash(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Reading and hashing."""
        return await Work(self._hashers, work, *args, **kwargs).ended()

    async def copy(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Copying what is published."""
        return await Work(self._copiers, work, *args, **kwargs).ended()

    def close(self) -> None:
        """Wait for what runs, drop what waits."""
        for pool in (self._writers, self._recorders, self._hashers, self._copiers):
            pool.shutdown(wait=True, cancel_futures=True)


class Work(Generic[T]):
    """What a thread was given to do."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._failed: Callable[[], None] | None = None
        self._future = pool.submit(work, *args, **kwargs)
        self._future.add_done_callback(self._tell)

    def when_failed(self, then: Callable[[], None]) -> None:
        """Have this called as soon as the work has failed; said before the loop turns again."""
        self._failed = then

    def _tell(self, future: Future[T]) -> None:
        while True:
            try:
                self._loop.call_soon_threadsafe(self._settle)
            except MemoryError:  # whoever waits would wait for ever
                time.sleep(0.01)
            except RuntimeError:  # the loop has ended before: nobody waits
                return
            else:
                return

    def _settle(self) -> None:
        if self._failed is not None and not self._future.cancelled() and self._future.exception() is not None:
            self._failed()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def ended(self) -> T:
        """Return or raise only when the thread is done with it, even where the waiting task is cancelled.

        A cancelled task must not give back its range, or its file, while a thread still works on it.
        """
        cancelled = None
        while not self._future.done():
            try:
                self._waiting = self._loop.create_future()
                await self._waiting
            except asyncio.CancelledError as error:
                cancelled = error
            except MemoryError:  # the thread works on all the same
                continue
        if cancelled is not None:
            raise cancelled
        if self._future.cancelled():  # its pool was closed before its turn came
            raise asyncio.CancelledError
        return self._future.result()
