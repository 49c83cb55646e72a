"""The batch extension: many small files in one request, durable by one group commit before the answer.

    arriving    each file is judged, hashed and prepared (bytes and attributes synced) while the rest still comes
    published   all are recorded, renamed, their folders synced, and recorded as complete, step by step together

Nothing is published before the whole body has come and its digest matched. From there on no file spoils another;
one that the disk or the catalog could not finish is taken over by the finisher, as after a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from chunkyd.catalog.base import SessionRecord, TooLate
from chunkyd.errors import Problem, StorageFull
from chunkyd.protocol.batch import Outcome
from chunkyd.protocol.paths import readable
from chunkyd.protocol.problems import problem
from chunkyd.server.allowance import Allowances
from chunkyd.server.arriving import Arriving, BatchFile
from chunkyd.server.finish import Finisher, path_problem
from chunkyd.server.ledger import Ledger, storage_full
from chunkyd.server.opening import too_late
from chunkyd.server.publish import NoLongerKept, Publisher
from chunkyd.server.receive import Body, BodyCut, Receiver
from chunkyd.server.registry import Registry
from chunkyd.server.session import LiveSession
from chunkyd.server.steady import SteadyTime
from chunkyd.server.threads import Threads
from chunkyd.settings import Limits
from chunkyd.storage.base import PathConflict, Storage

log = logging.getLogger("chunkyd.server")


class Batches:
    """Receives batches."""

    def __init__(
        self,
        storage: Storage,
        threads: Threads,
        registry: Registry,
        ledger: Ledger,
        publisher: Publisher,
        finisher: Finisher,
        receiver: Receiver,
        time: SteadyTime,
        limits: Limits,
        allowances: Allowances,
    ) -> None:
        self._storage = storage
        self._threads = threads
        self._registry = registry
        self._ledger = ledger
        self._publisher = publisher
        self._finisher = finisher
        self._receiver = receiver
        self._time = time
        self._limits = limits
        self._allowances = allowances

    async def receive(
        self, user: str, length: int, digests: Mapping[str, bytes], body: Body, key: bytes | None
    ) -> list[Outcome]:
        """Take a body of `length` bytes; an outcome for each of its files, in order."""
        if length > self._limits.chunk:
            text = f"A body holds at most {self._limits.chunk} bytes here, this one has {length}."
            raise problem("chunk-too-large", text, maxChunkBytes=self._limits.chunk)
        with self._ledger.opening(length, self._storage.free_bytes()):
            arriving = Arriving(user, length, digests, self._storage, self._publisher, self._limits, self._time.now)
            try:
                await self._arrive(arriving, body)
                await self._publish(user, arriving.files, key)
            except Exception:
                await self._threads.write(arriving.discard)
                raise
        return [file.outcome or Outcome("complete", known=file.known) for file in arriving.files]

    async def _arrive(self, arriving: Arriving, body: Body) -> None:
        try:
            await self._receiver.pour(body, arriving)
            arriving.finish()
        except BodyCut as error:
            text = f"The body ended after {arriving.received} of {arriving.length} bytes; nothing of it counts."
            raise problem("chunk-length-mismatch", text) from error

    async def _publish(self, user: str, files: Sequence[BatchFile], key: bytes | None) -> None:
        """Raises where nothing could be recorded, and then nothing was published."""
        async with self._allowances.of(user) as rest:
            for file in files:
                if file.record is not None and file.outcome is None:
                    try:
                        rest.take(file.record.total_bytes)
                    except Problem as error:
                        file.refuse(error)
                        await self._threads.write(self._storage.discard, file.record.session_id)
            ready = {file.record.session_id: file for file in files if file.record and not file.outcome}
            new = [file.record for file in ready.values() if file.record and not file.renews]
            renewed = [file.record for file in ready.values() if file.record and file.renews]
            wishes = [file.wish for file in ready.values() if file.wish]
            publish = self._publisher.publish_all
            until = self._time.now() + self._limits.session_ttl
            try:
                async with self._finisher.user_locks[user]:
                    published = await self._threads.record(publish, new, renewed, wishes, key, until)
            except TooLate as error:
                raise too_late() from error
        for record, failure in published:
            if failure is not None:
                self._failed(ready[record.session_id], record, failure)
        complete = sum(failure is None for _, failure in published)
        log.info("batch: %d of %d files of %s complete", complete, len(files), user)

    def _failed(self, file: BatchFile, record: SessionRecord, failure: Exception) -> None:
        """Give it its outcome; what is still on record is the finisher's."""
        path = readable(record.target)
        if isinstance(failure, PathConflict):
            file.refuse(path_problem(failure))
        elif isinstance(failure, NoLongerKept) and file.offered:
            file.outcome = Outcome("wanted")
        elif isinstance(failure, NoLongerKept):
            file.refuse(problem("internal", "The file has changed here since its bytes came; send it once more."))
        else:
            log.warning("session %.8s: %s is not published yet, trying again: %s", record.session_id, path, failure)
            session = LiveSession(record, [(0, record.total_bytes)])
            self._registry.add(session)
            self._finisher.start(session)
            text = "The file could not be published now; send it once more a little later."
            file.refuse(storage_full(0, 0) if isinstance(failure, StorageFull) else problem("internal", text))
