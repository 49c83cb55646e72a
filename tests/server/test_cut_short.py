"""What is believed of a publication that was cut short, and what becomes of one that fails on its way."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from chunkyd.catalog.base import SessionState
from chunkyd.errors import Problem, StorageFull
from chunkyd.protocol.batch import Outcome
from chunkyd.protocol.digests import content_digest
from chunkyd.protocol.paths import Target
from chunkyd.server.publish import Stopped
from chunkyd.storage.memory import MemoryStorage
from tests.server.batches import entry
from tests.server.bench import Bench, Came, run, until

ONE, TWO, THREE = b"one" * 100, b"two" * 100, b"thr" * 100
TARGET = Target("u", b"f")


async def batch(bench: Bench, *entries: bytes, body: Came | None = None) -> list[Outcome]:
    """One batch of the user's, in one piece where nothing else is said."""
    whole = b"".join(entries)
    digests = {"crc32c": content_digest(whole)}
    return await bench.uploads.batch("u", len(whole), digests, body or Came(whole))


async def interrupted(bench: Bench, first: bytes, meanwhile: Callable[[], Awaitable[None]]) -> list[Outcome]:
    """A batch during whose body something else happens: its first file has been judged by then."""
    last = entry(b"last", b"last")

    class Interrupted(Came):
        async def fill(self, buffer: memoryview) -> int:
            if self.taken == len(first) + 1:  # one half of the buffer is being filled while the other is judged
                await meanwhile()
            return await super().fill(buffer)

    return await batch(bench, first, last, body=Interrupted(first + last))


def reuse(bench: Bench, inode: int) -> None:
    """The file there has this inode number: it was free, and was given once more."""
    bench.storage._files[TARGET].inode = inode


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_renewal_of_what_was_replaced_meanwhile(
    monkeypatch: pytest.MonkeyPatch, by_hand: bool, offered: bool
) -> None:
    """Neither complete nor recorded, though the newer file has the old one's inode: its bytes are asked for."""
    for name in ("LEAST_BYTES", "MOST_BYTES"):  # each byte is judged before the next but one comes
        monkeypatch.setattr(f"chunkyd.server.receive.{name}", 1)

    async def scenario() -> None:
        bench = Bench()
        await batch(bench, entry(b"f", ONE))
        blob = bench.storage._files[TARGET]

        async def meanwhile() -> None:
            if by_hand:
                blob.write(0, THREE)
            else:
                await batch(bench, entry(b"f", TWO, modified_ns=5))
                await batch(bench, entry(b"f", THREE, modified_ns=6))
                reuse(bench, blob.inode)

        found = await interrupted(bench, entry(b"f", ONE, offered=offered), meanwhile)
        assert [outcome.result for outcome in found] == ["wanted" if offered else "refused", "complete"]
        assert not bench.uploads._registry.live and not list(bench.catalog.sessions())
        assert bench.content() == THREE
        (asked,) = await batch(bench, entry(b"f", ONE, offered=True))
        assert asked.result == "wanted"
        (sent,) = await batch(bench, entry(b"f", ONE))
        assert sent.result == "complete" and not sent.known
        assert bench.content() == ONE
        await bench.close()

    run(scenario)


async def restarted(bench: Bench) -> Bench:
    """The next run over the same disk and catalog, when it has finished what the last one left."""
    again = Bench(bench.storage, bench.catalog, clock=bench.clock)
    again.uploads.load()
    again.uploads.resume()
    await until(lambda: not again.uploads._registry.live)
    return again


class Died(BaseException):
    """The server is no more."""


@pytest.mark.parametrize("step", ["server.batch.recorded", "server.batch.placed"])
@pytest.mark.parametrize("renewal", [True, False])
@pytest.mark.parametrize("edited", [True, False])
def test_a_batch_cut_short_and_a_file_edited_before_the_next_start(
    monkeypatch: pytest.MonkeyPatch, step: str, renewal: bool, edited: bool
) -> None:
    """What the next start records under a hash has that hash, whatever inode it finds."""

    def die(name: str) -> None:
        if name == step:
            raise Died

    async def scenario() -> None:
        bench = Bench()
        if renewal:
            await batch(bench, entry(b"f", ONE))
        with monkeypatch.context() as patched:
            patched.setattr("chunkyd.server.publish.reached", die)
            with pytest.raises(Died):
                await batch(bench, entry(b"f", ONE, modified_ns=7))
        if edited and TARGET in bench.storage._files:
            bench.storage._files[TARGET].write(0, THREE)
        await bench.close()
        again = await restarted(bench)
        assert not list(again.catalog.sessions())
        (asked,) = await batch(again, entry(b"f", ONE, offered=True))
        assert asked.result == ("complete" if again.content() == ONE and _is_recorded(again) else "wanted")
        if not edited and not (renewal and step == "server.batch.placed"):
            assert asked.result == "complete"
        await again.close()

    run(scenario)


def _is_recorded(bench: Bench) -> bool:
    file, found = bench.catalog.file(TARGET), bench.storage.published(TARGET)
    return file is not None and found is not None and found.same_version(file.fingerprint)


@pytest.mark.parametrize("later", [True, False])
def test_an_inode_number_given_once_more(monkeypatch: pytest.MonkeyPatch, later: bool) -> None:
    """Published, not recorded, replaced: the file that has its number by then is not taken for it."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 100.0)

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(ONE)
        bench.catalog.full = {"complete"}
        await bench.put(session, ONE)
        assert bench.content() == ONE
        inode = bench.storage._files[TARGET].inode
        await bench.close()
        bench.catalog.full = set()
        if later:
            other = Bench(bench.storage, bench.catalog, clock=bench.clock)
            await other.upload(THREE)
            await other.close()
        else:
            bench.storage._files[TARGET].write(0, THREE)
        reuse(bench, inode)
        again = await restarted(bench)
        assert (await again.uploads.find("u", session.session_id)).status() == "complete"
        file = again.catalog.file(TARGET)
        assert (file.file_hash if file is not None else None) == (hashlib.sha256(THREE).hexdigest() if later else None)
        await again.close()

    run(scenario)


def test_an_old_version_is_not_the_one_that_was_to_come() -> None:
    """The partial is gone, by somebody's hand, before it was published: what stood there before proves nothing."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(ONE)
        session = await bench.open(TWO)
        bench.catalog.move(session.session_id, {SessionState.RECEIVING}, SessionState.PUBLISHING, inode=12345)
        bench.storage.discard(session.session_id)
        await bench.close()
        again = await restarted(bench)
        with pytest.raises(Problem, match="Invalid session ID"):
            await again.uploads.find("u", session.session_id)
        await again.close()

    run(scenario)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad sector"), Stopped(), RuntimeError("a mistake")])
def test_a_batch_that_fails_after_it_was_recorded(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """No partial goes that a record still names: each file is told to have failed, and published when it can be."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        bench = Bench(keep_old=True)
        await batch(bench, entry(b"f", ONE))
        bench.catalog.remove_file(TARGET)  # so that it has to be read
        once = [error]

        def failing(target: Target) -> object:
            if once:
                raise once.pop()
            return MemoryStorage.open_published(bench.storage, target)

        monkeypatch.setattr(bench.storage, "open_published", failing)
        found = await batch(bench, entry(b"f", TWO), entry(b"g", THREE))
        assert [outcome.result for outcome in found] == ["refused", "refused"]
        await until(lambda: not bench.uploads._registry.live)
        assert (bench.content(), bench.content(b"g"), bench.content(b"f.~1~")) == (TWO, THREE, ONE)
        assert not list(bench.catalog.sessions()) and not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_what_is_in_the_way_of_one_file_of_a_batch_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog fails at the end of a batch: what is complete is recorded later, and nothing is left of the other."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(ONE, b"f/deep")

        def full(published: object) -> None:
            monkeypatch.undo()
            raise StorageFull("the catalog's disk is full")

        monkeypatch.setattr(bench.catalog, "complete_all", full)
        found = await batch(bench, entry(b"f", TWO), entry(b"g", THREE))
        assert [outcome.problem and outcome.problem.name for outcome in found] == ["path-conflict", "storage-full"]
        await until(lambda: not bench.uploads._registry.live)
        assert [record.target for record in bench.catalog.sessions()] == [b"f/deep"]
        assert bench.catalog.file(Target("u", b"g")) is not None
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("kept", [True, False])
def test_a_renewal_that_fails(kept: bool) -> None:
    """Its key leads to a session once the trouble is over, and no record is left behind, whoever asks again or not."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(ONE)
        bench.catalog.full = {"complete", "forget"}
        with pytest.raises(Problem, match="Storage full"):
            await bench.open(ONE, key=b"k", modified_ns=7)
        with pytest.raises(Problem, match="Internal error"):
            await bench.open(ONE, key=b"k", modified_ns=7)
        bench.catalog.full = set()
        if not kept:
            bench.storage._files.pop(TARGET)
        session = await bench.open(ONE, key=b"k", modified_ns=7)
        if session.status() == "incomplete":
            await bench.put(session, ONE)
        assert session.status() == "complete"
        assert bench.content() == ONE
        assert {record.state for record in bench.catalog.sessions()} == {SessionState.COMPLETE}
        await bench.close()

    run(scenario)


def test_a_renewal_that_fails_and_is_not_asked_for_again() -> None:
    """Housekeeping takes it off the record."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(ONE)
        bench.catalog.full = {"complete", "forget"}
        with pytest.raises(Problem, match="Storage full"):
            await bench.open(ONE, key=b"k", modified_ns=7)
        assert len(list(bench.catalog.sessions())) == 2
        bench.catalog.full = set()
        await bench.uploads.tick()
        assert len(list(bench.catalog.sessions())) == 1
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("key", [None, b"k"])
def test_a_renewal_of_what_is_edited_at_that_moment(monkeypatch: pytest.MonkeyPatch, key: bytes | None) -> None:
    """It becomes an ordinary upload, with its key: the first record of it is gone, or it would be in the way."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(ONE)
        blob = bench.storage._files[TARGET]
        seen: list[int] = []

        def edit(step: str) -> None:
            if step == "server.renewal.recorded":
                blob.write(0, TWO)
            elif step == "server.session.recorded":
                seen.extend(record.sequence for record in bench.catalog.sessions())

        monkeypatch.setattr("chunkyd.server.opening.reached", edit)
        session = await bench.open(ONE, key=key, modified_ns=7)
        assert seen == [1, 3], "begun anew, after the renewal that was forgotten"
        assert session.status() == "incomplete"
        assert await bench.put(session, ONE) == "complete"
        assert bench.content() == ONE
        assert len(list(bench.catalog.sessions())) == 2
        await bench.close()

    run(scenario)


def test_a_lost_partial_while_the_catalog_takes_nothing() -> None:
    """Its client is told at once, and its record ends when that can be recorded."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(ONE, key=b"k")
        bench.storage.discard(session.session_id)
        bench.catalog.full = {"end"}
        with pytest.raises(Problem, match="Invalid session ID"):
            await bench.put(session, ONE)
        bench.catalog.full = set()
        await bench.uploads.tick()
        assert not list(bench.catalog.sessions())
        await bench.close()

    run(scenario)


def test_a_mistake_while_a_session_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the session is finished at the next try: its client only sees it verifying meanwhile."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(ONE)
        move = bench.catalog.move

        def fail(*arguments: object, **more: object) -> bool:
            monkeypatch.setattr(bench.catalog, "move", move)
            raise RuntimeError("a mistake")

        monkeypatch.setattr(bench.catalog, "move", fail)
        assert await bench.put(session, ONE) == "complete"
        await bench.close()

    run(scenario)
