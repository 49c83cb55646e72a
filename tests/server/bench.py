"""A server without HTTP, in this process: memory stores, a clock by hand, stores that fail when told to."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from chunkyd.catalog.base import FileRecord, SessionRecord, StoredRange, Wish
from chunkyd.catalog.memory import MemoryCatalog
from chunkyd.clock import ManualClock
from chunkyd.errors import StorageFull
from chunkyd.protocol.digests import content_digest
from chunkyd.protocol.messages import Initiate
from chunkyd.protocol.paths import Target
from chunkyd.server.session import LiveSession
from chunkyd.server.threads import Threads
from chunkyd.server.uploads import Chunk, Uploads
from chunkyd.settings import Limits
from chunkyd.storage.base import Attributes, Partial, Prepared
from chunkyd.storage.memory import MemoryStorage

LIMITS = Limits(file=1 << 40, chunk=1 << 20, session_ttl=100.0, reserve=0)


class FailingCatalog(MemoryCatalog):
    """A catalog whose disk is full while `full` says so, for the methods named in it."""

    def __init__(self) -> None:
        super().__init__()
        self.full: set[str] = set()

    def _check(self, name: str) -> None:
        if name in self.full:
            raise StorageFull("the catalog's disk is full")

    def add_session(self, record: SessionRecord, wish: Wish | None = None) -> SessionRecord:
        self._check("add_session")
        return super().add_session(record, wish)

    def record_stored(self, batch: Iterable[StoredRange]) -> None:
        self._check("record_stored")
        super().record_stored(batch)

    def declare(self, session_id: str, file_hash: str) -> str | None:
        self._check("declare")
        return super().declare(session_id, file_hash)

    def complete(self, session_id: str, file: FileRecord | None) -> bool:
        self._check("complete")
        return super().complete(session_id, file)

    def end(self, session_id: str) -> None:
        self._check("end")
        super().end(session_id)

    def forget(self, session_id: str) -> None:
        self._check("forget")
        super().forget(session_id)

    def expire(self, session_id: str, tombstone_until: float) -> bool:
        self._check("expire")
        return super().expire(session_id, tombstone_until)


class WrappedPartial:
    """An open partial that does what the one within does."""

    def __init__(self, inner: Partial) -> None:
        self._inner = inner

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        self._inner.write(offset, *pieces)

    def read(self, offset: int, length: int) -> bytes:
        return self._inner.read(offset, length)

    def sync(self) -> None:
        self._inner.sync()

    def flush_soon(self, start: int, stop: int) -> None:
        self._inner.flush_soon(start, stop)

    def close(self) -> None:
        self._inner.close()


class SlowPartial(WrappedPartial):
    """An open partial whose bytes are read at once, and handed over when the test says so."""

    def __init__(self, inner: Partial, storage: SlowStorage) -> None:
        super().__init__(inner)
        self._storage = storage

    def read(self, offset: int, length: int) -> bytes:
        data = self._inner.read(offset, length)
        self._storage.reading.set()
        self._storage.go_on.wait(10)
        return data


class SlowStorage(MemoryStorage):
    """A disk that takes its time to read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def open(self, session_id: str) -> Partial:  # type: ignore[override]
        return SlowPartial(super().open(session_id), self)


class LossyPartial(WrappedPartial):
    """An open partial on a lossy disk: a sync that failed, of this opening or of another, fails all later ones."""

    def __init__(self, inner: Partial, storage: LossyStorage, session_id: str) -> None:
        super().__init__(inner)
        self._storage = storage
        self._session_id = session_id
        self._opened = storage.losses

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        self._inner.write(offset, *pieces)
        self._storage.unsynced.setdefault(self._session_id, []).append((offset, sum(map(len, pieces))))

    def sync(self) -> None:
        if self._opened != self._storage.losses:
            raise OSError(errno.EIO, "lost before")
        self._storage.flush(self._session_id)


class LossyStorage(MemoryStorage):
    """A disk whose next `failures` syncs fail: what was written before is zeros then, and the next sync succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.losses = 0
        self.unsynced: dict[str, list[tuple[int, int]]] = {}

    def flush(self, session_id: str) -> None:
        lost = self.unsynced.pop(session_id, [])
        if self.failures:
            self.failures -= 1
            self.losses += 1
            partial = super().open(session_id)
            for offset, length in lost:
                partial.write(offset, bytes(length))
            raise OSError(errno.EIO, "lost")

    def open(self, session_id: str) -> Partial:  # type: ignore[override]
        return LossyPartial(super().open(session_id), self, session_id)

    def prepare(self, session_id: str, attributes: Attributes) -> Prepared:
        self.flush(session_id)
        return super().prepare(session_id, attributes)


class Bench:
    """One server, and short words for what its clients do."""

    def __init__(
        self,
        storage: MemoryStorage | None = None,
        catalog: FailingCatalog | None = None,
        limits: Limits = LIMITS,
        clock: ManualClock | None = None,
        **options: bool,
    ) -> None:
        self.storage = storage or MemoryStorage()
        self.catalog = catalog or FailingCatalog()
        self.clock = clock or ManualClock()
        self.limits = limits
        self.threads = Threads()
        self.uploads = Uploads(self.storage, self.catalog, limits, self.clock, self.threads, **options)

    async def open(
        self,
        data: bytes,
        path: bytes = b"f",
        user: str = "u",
        *,
        file_hash: str = "",
        key: bytes | None = None,
        **more: Any,
    ) -> LiveSession:
        """Initiate."""
        request = Initiate(file_hash or ("" if "file_version" in more else sha(data)), len(data), path, **more)
        return await self.uploads.initiate(user, request, key)

    async def put(self, session: LiveSession, data: bytes, start: int = 0, stop: int | None = None) -> str:
        """Send one chunk in one piece."""
        part = data[start : len(data) if stop is None else stop]
        return await self.uploads.chunk(session, chunk_of(part, start, session.total), Came(part))

    async def upload(self, data: bytes, path: bytes = b"f", user: str = "u") -> LiveSession:
        """A whole small file, to its end."""
        session = await self.open(data, path, user)
        if session.status() == "incomplete":
            assert await self.put(session, data) == "complete"
        return session

    def content(self, path: bytes = b"f", user: str = "u") -> bytes | None:
        """What is published."""
        reader = self.storage.open_published(Target(user, path))
        return None if reader is None else reader.read(0, 1 << 30)

    async def close(self) -> None:
        """Like a clean stop."""
        await self.uploads.close()
        self.threads.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """A scenario on a loop of its own, with a deadline."""
    asyncio.run(asyncio.wait_for(_awaited(scenario), 20))


async def _awaited(scenario: Callable[[], Awaitable[None]]) -> None:
    await scenario()


def sha(data: bytes) -> str:
    """The file hash."""
    return hashlib.sha256(data).hexdigest()


def chunk_of(part: bytes, start: int, total: int, digest: bytes | None = None) -> Chunk:
    """The head of a chunk."""
    return Chunk((start, start + len(part)), total, len(part), {"crc32c": digest or content_digest(part)})


class Came:
    """A body of `length` bytes of which only some come, at once; by default all of them."""

    def __init__(self, part: bytes, length: int | None = None) -> None:
        self._part = part
        self.left = len(part) if length is None else length
        self.taken = 0
        self.moved = 0.0

    async def fill(self, buffer: memoryview) -> int:
        await asyncio.sleep(0)
        count = min(len(buffer), self.left, len(self._part) - self.taken)
        buffer[:count] = self._part[self.taken : self.taken + count]
        self.taken += count
        self.left -= count
        return count


class Slow:
    """A body of `length` bytes that come when the test says so."""

    def __init__(self, length: int) -> None:
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._rest = b""
        self.left = length
        self.taken = 0
        self.moved = 0.0

    def give(self, part: bytes | BaseException | None) -> None:
        """The next bytes; an exception; None where the connection ends."""
        self._queue.put_nowait(part)

    async def fill(self, buffer: memoryview) -> int:
        filled, wanted = 0, min(len(buffer), self.left)
        while filled < wanted:
            part = self._rest or await self._queue.get()
            if part is None:
                break
            if isinstance(part, BaseException):
                raise part
            count = min(len(part), wanted - filled)
            buffer[filled : filled + count] = part[:count]
            self._rest = part[count:]
            filled += count
            self.left -= count
            self.taken += count
            self.moved = asyncio.get_running_loop().time()
        return filled


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)
