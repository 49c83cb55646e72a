"""What happens at the same moment: housekeeping, administrators and other uploads beside a publication under way."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from chunkyd.catalog.base import SessionState
from chunkyd.errors import StorageFull
from chunkyd.files import Fingerprint
from chunkyd.protocol.digests import content_digest
from chunkyd.protocol.paths import Target
from chunkyd.server.threads import COPIERS
from chunkyd.storage.base import PathConflict, Publication
from chunkyd.storage.memory import MemoryStorage
from tests.server.batches import entry
from tests.server.bench import Bench, Came, run, until

DATA = bytes(range(250)) * 20
NEWER = DATA[::-1]


class HeldStorage(MemoryStorage):
    """A disk on which a publication, already placed, takes until the test lets it return."""

    def __init__(self) -> None:
        super().__init__()
        self.placed = threading.Event()
        self.go_on = threading.Event()

    def publish_all(
        self, publications: Sequence[Publication]
    ) -> list[Fingerprint | PathConflict | OSError | StorageFull]:
        with self._held():
            return super().publish_all(publications)

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        with self._held():
            return super().publish(session_id, target, keep_old=keep_old)

    @contextmanager
    def _held(self) -> Iterator[None]:
        yield
        self.placed.set()
        self.go_on.wait(10)


def test_housekeeping_leaves_a_batch_alone() -> None:
    """A round of the janitor between a batch's records and their completion expires nothing of it."""

    async def scenario() -> None:
        storage = HeldStorage()
        bench = Bench(storage)
        body = entry(b"a", DATA) + entry(b"b", NEWER)
        digests = {"crc32c": content_digest(body)}
        sending = asyncio.create_task(bench.uploads.batch("u", len(body), digests, Came(body)))
        await until(storage.placed.is_set)
        bench.clock.advance(1)
        await bench.uploads.tick()
        assert all(record.state is SessionState.PUBLISHING for record in bench.catalog.sessions(tombstones=True))
        storage.go_on.set()
        assert [outcome.result for outcome in await sending] == ["complete", "complete"]
        assert bench.content(b"b") == NEWER
        assert [file.path for file in bench.catalog.files("u")] == [b"a", b"b"]
        await bench.close()

    run(scenario)


def test_an_administrator_cannot_expire_what_is_being_published() -> None:
    """Once publication has begun its file has its record, whoever would end the session meanwhile."""

    async def scenario() -> None:
        storage = HeldStorage()
        bench = Bench(storage)
        session = await bench.open(DATA)
        sending = asyncio.create_task(bench.put(session, DATA))
        await until(storage.placed.is_set)
        assert not bench.catalog.expire(session.session_id, bench.clock.wall() + 100)
        storage.go_on.set()
        await sending
        assert [file.path for file in bench.catalog.files("u")] == [b"f"]
        assert (await bench.uploads.find("u", session.session_id)).status() == "complete"
        await bench.close()

    run(scenario)


class CountedStorage(MemoryStorage):
    """A disk that counts how often it was tried."""

    trials = 0
    full = False

    def probe(self) -> None:
        self.trials += 1
        if self.full:
            raise StorageFull("no room")


def test_those_who_ask_at_once_share_one_trial() -> None:
    """A thousand questions after readiness cost the disk one trial, all get its outcome, and the next tries anew."""

    async def scenario() -> None:
        storage = CountedStorage()
        bench = Bench(storage)
        await asyncio.gather(*(bench.uploads.probe() for _ in range(1000)))
        assert storage.trials == 1
        storage.full = True
        outcomes = await asyncio.gather(*(bench.uploads.probe() for _ in range(10)), return_exceptions=True)
        assert storage.trials == 2 and all(isinstance(outcome, StorageFull) for outcome in outcomes)
        await bench.close()

    run(scenario)


class MovedStorage(MemoryStorage):
    """A disk on which somebody moves the target's folder away at the moment of the first publication."""

    moved = False

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        if not self.moved:
            self.moved = True
            raise FileNotFoundError(errno.ENOENT, "the folder is gone")
        return super().publish(session_id, target, keep_old=keep_old)


def test_a_folder_that_is_moved_away_costs_no_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing on the way to the target is not taken for the partial: it is tried again, without a byte."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        bench = Bench(MovedStorage())
        session = await bench.open(DATA, b"folder/file")
        await bench.put(session, DATA)
        await until(lambda: session.status() == "complete")
        assert bench.content(b"folder/file") == DATA
        await bench.close()

    run(scenario)


def test_a_version_that_came_while_its_predecessor_was_copied_keeps_its_record() -> None:
    """The kept file is replaced before it can be copied: the copy falls back, and the newer file stays known."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        old = await bench.open(b"older", b"f")
        newer = await bench.open(NEWER, b"f")
        go_on = threading.Event()
        occupied = [asyncio.create_task(bench.threads.copy(go_on.wait, 10)) for _ in range(COPIERS)]
        copying = asyncio.create_task(bench.open(DATA, b"copy"))
        await until(lambda: any(s.state is SessionState.COPYING for s in bench.catalog.sessions()))
        assert await bench.put(newer, NEWER) == "complete"
        go_on.set()
        await asyncio.gather(*occupied)
        session = await copying
        await until(lambda: session.status() == "incomplete")
        assert session.owed == 0  # its space is set aside still: a disk that is full otherwise takes its chunks
        assert bench.catalog.file(Target("u", b"f")) is not None
        assert await bench.put(old, b"older") == "complete"
        assert bench.content(b"f") == NEWER
        await bench.close()

    run(scenario)
