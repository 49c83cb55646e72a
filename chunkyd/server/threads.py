"""Where blocking work runs: the event loop itself never waits for a disk, a database or a hash.

Several pools, so that writers waiting for a slow disk, or a copy that takes hours, keep nobody else waiting. All
threads begin with the server: a pool that could not begin one when it is wanted would refuse the work, and do it later
all the same, when its range may be another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from chunkyd.threads import begun_pool

P = ParamSpec("P")
T = TypeVar("T")

WRITERS = 8
RECORDERS = 8
HASHERS = 2
COPIERS = 2
WEB_SERVER = 3  # Granian's own


class Threads:
    """Four bounded pools."""

    def __init__(self) -> None:
        self._writers = begun_pool(WRITERS, "write")
        self._recorders = begun_pool(RECORDERS, "record")
        self._hashers = begun_pool(HASHERS, "hash")
        self._copiers = begun_pool(COPIERS, "copy")
        # Without one of its own the web server would abort, or listen and never answer: so see that it will have them.
        begun_pool(WEB_SERVER, "room").shutdown()

    async def write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Bytes of a body to the disk."""
        return await _finish(self._writers, work, *args, **kwargs)

    async def record(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Catalog, syncing, publishing."""
        return await _finish(self._recorders, work, *args, **kwargs)

    async def hash(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Reading and hashing."""
        return await _finish(self._hashers, work, *args, **kwargs)

    async def copy(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Copying what is published."""
        return await _finish(self._copiers, work, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs, drop what waits."""
        for pool in (self._writers, self._recorders, self._hashers, self._copiers):
            pool.shutdown(wait=True, cancel_futures=True)


async def _finish(pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return or raise only when the thread is done with it, even where the waiting task is cancelled.

    A cancelled task must not give back its range, or its file, while a thread still works on it.
    """
    future = asyncio.wrap_future(pool.submit(work, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                continue
            except Exception:  # noqa: BLE001 — the cancellation is what is reported
                break
        raise
