"""What each user may keep here, in bytes: published files and sessions under way count."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from chunkyd.catalog.base import Catalog
from chunkyd.errors import Problem
from chunkyd.protocol.problems import problem
from chunkyd.server.threads import Threads
from chunkyd.settings import Limits


class Rest:
    """What is left of one user's allowance; None: as much as there is room."""

    def __init__(self, allowance: int | None, usage: int) -> None:
        self._allowance = allowance
        self._left = max(0, allowance - usage) if allowance is not None else None

    def take(self, size: int) -> None:
        """Use some of it; raises quota-exceeded where it is not enough, and then nothing is used."""
        if self._left is None:
            return
        if size > self._left:
            raise self._exceeded(size, self._left)
        self._left -= size

    def _exceeded(self, size: int, left: int) -> Problem:
        text = f"{size} bytes are more than the {left} left of this user's {self._allowance}."
        return problem("quota-exceeded", text, requiredBytes=size, availableBytes=left)


class Allowances:
    """Every user's allowance."""

    def __init__(self, catalog: Catalog, threads: Threads, limits: Limits) -> None:
        self._catalog = catalog
        self._threads = threads
        self._limits = limits
        self._locks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[Rest]:
        """The rest of it. Where there is one, a user's uploads begin one at a time: two must not use the same rest."""
        allowance = self._limits.per_user.get(user)
        if allowance is None:
            yield Rest(None, 0)
            return
        async with self._locks.setdefault(user, asyncio.Lock()):
            yield Rest(allowance, await self._threads.record(self._catalog.usage, user))
