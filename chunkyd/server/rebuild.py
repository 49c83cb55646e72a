"""The records of published files, made anew by reading all of them: for a catalog that was begun anew.

- A record says which bytes a file has now; whether they are those once verified nobody can know any more.
- Beside everything else, in bites; where a publication is at work on the same user, one waits for the other.
- Sequence 0: whatever any session publishes is newer. What has a record already is left alone, so that a rebuild that
  was cut short goes on where it was, and nothing is read twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping

from chunkyd.catalog.base import Catalog, FileRecord
from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target, readable
from chunkyd.server.publish import Stopped, hash_whole
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Storage

BITE_FILES = 64
BITE_BYTES = 64 << 20
RETRY_SECONDS = 30.0

log = logging.getLogger("chunkyd.server")


class Rebuild:
    """Runs once, in the background, until the catalog knows all files."""

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        threads: Threads,
        user_locks: Mapping[str, asyncio.Lock],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._threads = threads
        self._user_locks = user_locks
        self._clock = clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Give up reading; the next start goes on."""
        self._stopping.set()

    async def run(self) -> None:
        """Return when every published file has its record; a full disk is waited for."""
        while not self._stopping.is_set():
            try:
                if not await self._threads.record(self._catalog.knows_files):
                    await self._record_all()
                return
            except Stopped:
                return
            except (ChunkyError, OSError) as error:
                log.error("recording the published files again failed, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _record_all(self) -> None:
        recorded = 0
        published = self._storage.walk()
        while bite := await self._threads.copy(self._read_bite, published):
            if not recorded:
                log.error("this catalog was begun anew: all published files are read and recorded again")
            for user, files in _by_user(bite).items():
                async with self._user_locks[user]:
                    recorded += await self._threads.record(self._put, files)
        await self._threads.record(self._catalog.set_files_known)
        reached("server.rebuild.done")
        if recorded:
            log.error("%d published files were recorded again", recorded)

    def _read_bite(self, published: Iterator[tuple[Target, Fingerprint]]) -> list[FileRecord]:
        """The next files without a record, hashed; empty at the end."""
        bite: list[FileRecord] = []
        weight = 0
        for target, found in published:
            self._go_on()
            if self._catalog.file(target) is not None:
                continue
            record = self._read(target, found)
            if record is not None:
                bite.append(record)
                weight += record.size
            if len(bite) >= BITE_FILES or weight >= BITE_BYTES:
                break
        return bite

    def _read(self, target: Target, found: Fingerprint) -> FileRecord | None:
        """Its record; None where it is being changed, or cannot be read."""
        try:
            reader = self._storage.open_published(target)
            if reader is None:
                return None
            with contextlib.closing(reader):
                file_hash = hash_whole(reader.read, found.size, self._go_on)
        except OSError as error:
            log.error("%s of %s cannot be read, and is not recorded: %s", readable(target.path), target.user, error)
            return None
        now = self._clock.wall()
        return FileRecord(target.user, target.path, file_hash, found.size, found, 0, now) if file_hash else None

    def _put(self, files: list[FileRecord]) -> int:
        """Record those that are still what was read, and that no session has recorded meanwhile."""
        recorded = 0
        for file in files:
            target = Target(file.user, file.path)
            now = self._storage.published(target)
            known = self._catalog.file(target) is not None
            if not known and now is not None and now.same_version(file.fingerprint):
                self._catalog.put_file(file)
                reached("server.rebuild.recorded")
                recorded += 1
        return recorded

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise Stopped


def _by_user(files: list[FileRecord]) -> dict[str, list[FileRecord]]:
    users: dict[str, list[FileRecord]] = defaultdict(list)
    for file in files:
        users[file.user].append(file)
    return users
