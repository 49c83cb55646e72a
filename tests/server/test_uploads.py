"""What the server does for its clients, without HTTP, under a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from chunkyd.catalog.base import FileRecord, SessionState, StoredRange
from chunkyd.errors import Problem
from chunkyd.protocol.messages import EMPTY_FILE_HASH
from chunkyd.protocol.paths import Target
from chunkyd.server.session import LiveSession
from chunkyd.settings import Limits
from chunkyd.storage.base import Attributes
from chunkyd.storage.memory import MemoryStorage
from tests.server.bench import LIMITS, Bench, Came, Slow, chunk_of, run, sha, until

DATA = os.urandom(5000)


async def refused(name: str, awaitable: object) -> Problem:
    """The problem of this name."""
    with pytest.raises(Problem) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.name == name, caught.value
    return caught.value


def test_chunks_in_any_order_twice_and_overlapping_make_the_file() -> None:
    """Order, overlap and repetition change nothing; the last missing byte completes the file."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, modified_ns=5_000_000_000, mode=0o640)
        assert session.missing() == [(0, 5000)]
        assert await bench.put(session, DATA, 3000, 4000) == "incomplete"
        assert await bench.put(session, DATA, 0, 1000) == "incomplete"
        assert await bench.put(session, DATA, 0, 1000) == "incomplete"
        assert await bench.put(session, DATA, 500, 3500) == "incomplete"
        assert session.missing() == [(4000, 5000)]
        assert await bench.put(session, DATA, 2000) == "complete"
        assert bench.content() == DATA
        found = bench.storage.published(Target("u", b"f"))
        assert found is not None and found.mtime_ns == 5_000_000_000
        assert await bench.put(session, DATA, 10, 20) == "complete"
        assert await bench.uploads.end(session) == "ended"
        await refused("session-not-found", bench.uploads.find_to_end("u", session.session_id))
        assert bench.content() == DATA
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_the_first_stored_bytes_win() -> None:
    """A later chunk with other bytes over stored ones writes only what was missing."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        await bench.put(session, DATA, 1000, 2000)
        liar = bytes(1000) + b"\xff" * 1000 + DATA[2000:3000]
        liar = DATA[:1000] + liar[1000:]
        part = liar[:3000]
        assert await bench.uploads.chunk(session, chunk_of(part, 0, 5000), Came(part)) == "incomplete"
        assert await bench.put(session, DATA, 3000) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_wrong_digest_counts_for_nothing() -> None:
    """Nothing of a chunk whose digest differs is stored, and the right one is taken afterwards."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bad = chunk_of(DATA, 0, 5000, digest=bytes(4))
        await refused("chunk-digest-mismatch", bench.uploads.chunk(session, bad, Came(DATA)))
        assert session.missing() == [(0, 5000)] and not session.claims
        assert await bench.put(session, DATA) == "complete"
        await bench.close()

    run(scenario)


def test_a_cut_body_counts_for_nothing() -> None:
    """A body that ends early, or breaks off, is refused; its range is free at once."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        head = chunk_of(DATA, 0, 5000)
        await refused("chunk-length-mismatch", bench.uploads.chunk(session, head, Came(DATA[:4999], 5000)))
        broken = Slow(5000)
        broken.give(DATA[:100])
        broken.give(None)
        await refused("chunk-length-mismatch", bench.uploads.chunk(session, head, broken))
        await refused("chunk-length-mismatch", bench.uploads.chunk(session, replace(head, length=4), Came(DATA)))
        assert session.missing() == [(0, 5000)] and not session.claimed
        assert await bench.put(session, DATA) == "complete"
        await bench.close()

    run(scenario)


def test_a_range_in_progress_is_refused_to_the_later_request() -> None:
    """The later of two gets chunk-in-progress with Retry-After, another range goes through, and then all is well."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        slow = Slow(3000)
        first = asyncio.create_task(bench.uploads.chunk(session, chunk_of(DATA[:3000], 0, 5000), slow))
        slow.give(DATA[:100])
        await until(lambda: bool(session.claimed))
        problem = await refused("chunk-in-progress", bench.put(session, DATA, 2999, 4000))
        assert problem.retry_after
        assert await bench.put(session, DATA, 3000) == "incomplete"
        slow.give(DATA[100:3000])
        assert await first == "complete"
        await bench.close()

    run(scenario)


def test_a_body_that_stalls_is_dropped() -> None:
    """A chunk that gets no byte for the stall time is given up, and its range is free."""

    async def scenario() -> None:
        bench = Bench()
        bench.uploads._bodies._stall_seconds = 0.05
        session = await bench.open(DATA)
        slow = Slow(5000)
        slow.give(DATA[:100])
        await refused("chunk-length-mismatch", bench.uploads.chunk(session, chunk_of(DATA, 0, 5000), slow))
        assert not session.claimed
        await bench.close()

    run(scenario)


def test_other_bytes_than_the_hash_are_never_published() -> None:
    """The session is dead: the last chunk, every status and chunk say so, the space is freed, nothing is published."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_hash=sha(b"other"))
        await refused("digest-mismatch", bench.put(session, DATA))
        again = await bench.uploads.find("u", session.session_id)
        await refused("digest-mismatch", bench.uploads.status(again))
        await refused("digest-mismatch", bench.put(again, DATA, 0, 10))
        assert bench.content() is None and not list(bench.storage.partials())
        bench.clock.advance(101)
        await refused("session-expired", bench.uploads.find("u", session.session_id))
        await bench.close()

    run(scenario)


def test_a_file_of_no_bytes_is_decided_at_initiate() -> None:
    """With the right hash it is complete at once, with another one it is digest-mismatch."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(b"")
        assert session.record.file_hash == EMPTY_FILE_HASH
        assert session.status() == "complete" and bench.content() == b""
        await refused("digest-mismatch", bench.open(b"", b"g", file_hash=sha(b"x")))
        await bench.close()

    run(scenario)


def test_expiry_tombstone_and_purge() -> None:
    """410 for as long again after the TTL, then unknown; endUpload on it is session-not-found; the bytes are gone."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.clock.advance(60)
        await bench.put(session, DATA, 0, 10)
        bench.clock.advance(60)
        name = (await bench.uploads.find("u", session.session_id)).session_id
        await bench.put(session, DATA, 0, 10)  # a repeated chunk renews nothing
        bench.clock.advance(41)
        await refused("session-expired", bench.uploads.find("u", name))
        await refused("session-expired", bench.uploads.find("u", name))
        await refused("session-not-found", bench.uploads.find_to_end("u", name))
        await refused("invalid-session-id", bench.uploads.find("v", name))
        assert not list(bench.storage.partials())
        bench.clock.advance(101)
        await bench.uploads.tick()
        await refused("invalid-session-id", bench.uploads.find("u", name))
        await bench.close()

    run(scenario)


def test_the_janitor_expires_what_nobody_asks_for() -> None:
    """Overdue sessions of every state become tombstones in the sweep, busy ones stay."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        done = await bench.upload(b"x", b"x")
        busy = await bench.open(DATA, b"busy")
        slow = Slow(5000)
        task = asyncio.create_task(bench.uploads.chunk(busy, chunk_of(DATA, 0, 5000), slow))
        await until(lambda: bool(busy.claimed))
        bench.clock.advance(150)
        await bench.uploads.tick()
        states = {record.session_id: record.state for record in bench.catalog.sessions(tombstones=True)}
        assert states[session.session_id] == states[done.session_id] == SessionState.EXPIRED
        assert states[busy.session_id] == SessionState.RECEIVING
        slow.give(DATA)
        assert await task == "complete"
        assert bench.content(b"busy") == DATA and bench.content(b"x") == b"x"
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_moves_all_deadlines(step: float) -> None:
    """A session lives neither shorter nor longer for it, in memory and in the records."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.clock.advance(50)
        bench.clock.step_wall(step)
        await bench.uploads.find("u", session.session_id)
        await bench.uploads.tick()
        await bench.uploads.find("u", session.session_id)
        record = bench.catalog.session(session.session_id)
        assert record is not None and record.expires_at == session.record.expires_at
        assert record.expires_at == pytest.approx(bench.clock.wall() + 50)
        bench.clock.advance(51)
        await refused("session-expired", bench.uploads.find("u", session.session_id))
        await bench.close()

    run(scenario)


def test_an_absolute_age_ends_even_a_busy_life() -> None:
    """Stored chunks renew the TTL only up to the age that is set."""

    async def scenario() -> None:
        bench = Bench(limits=replace(LIMITS, session_age=150.0))
        session = await bench.open(DATA)
        for start in range(0, 150, 50):
            await bench.put(session, DATA, start, start + 10)
            bench.clock.advance(50)
        await refused("session-expired", bench.uploads.find("u", session.session_id))
        await bench.close()

    run(scenario)


def test_what_an_administrator_expires_is_let_go() -> None:
    """A session expired in the records by another process is gone after the next round."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.catalog.expire(session.session_id, bench.clock.wall() + 100)
        await bench.uploads.tick()
        await refused("session-expired", bench.uploads.find("u", session.session_id))
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_another_users_session_is_like_none() -> None:
    """The same answer for a foreign session, of whatever state, and for one that never existed."""

    async def scenario() -> None:
        bench = Bench()
        live = await bench.open(DATA)
        done = await bench.upload(b"x", b"x")
        texts = set()
        for name in (live.session_id, done.session_id, "0" * 32, "../../etc/passwd", ""):
            problem = await refused("invalid-session-id", bench.uploads.find("v", name))
            texts.add(str(problem))
        assert len(texts) == 1
        await bench.close()

    run(scenario)


def test_the_same_initiate_gets_the_same_session() -> None:
    """Idempotent while the session lives, when it is complete too, at once and in parallel; another key is another."""

    async def scenario() -> None:
        bench = Bench()
        several = await asyncio.gather(*(bench.open(DATA, key=b"k") for _ in range(5)))
        assert len({session.session_id for session in several}) == 1
        assert len(list(bench.storage.partials())) == 1
        other = await bench.open(DATA, key=b"other")
        assert other.session_id != several[0].session_id
        await bench.put(several[0], DATA)
        again = await bench.open(DATA, key=b"k")
        assert again.session_id == several[0].session_id and again.status() == "complete"
        await bench.close()

    run(scenario)


def test_the_same_initiate_after_its_session_expired() -> None:
    """The key of a session whose time is over, complete or not, opens nothing; once it is forgotten it does again."""

    async def scenario() -> None:
        bench = Bench()
        for path in (b"unfinished", b"finished"):
            first = await bench.open(DATA + path, path, key=path)
            if path == b"finished":
                await bench.put(first, DATA + path)
            bench.clock.advance(101)
            await refused("session-expired", bench.open(DATA + path, path, key=path))
            bench.clock.advance(101)
            await bench.uploads.tick()
            second = await bench.open(DATA + path, path, key=path)
            assert second.session_id != first.session_id
            await bench.uploads.find("u", second.session_id)
        await bench.close()

    run(scenario)


def test_a_big_copy_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying is given up at a stop, begun again at the next start, and complete in the end."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        storage = bench.storage
        reading = threading.Event()
        go_on = threading.Event()
        clone = storage.clone

        def slow_clone(target: Target, session_id: str) -> bool:
            reading.set()
            go_on.wait(5)
            return clone(target, session_id)

        monkeypatch.setattr(storage, "clone", slow_clone)
        monkeypatch.setattr("chunkyd.server.opening.SMALL_BYTES", 0)
        session = await bench.open(DATA, b"copy")
        assert session.status() == "verifying" and session.missing() == []
        await until(reading.is_set)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await bench.close()
        assert bench.content(b"copy") is None
        monkeypatch.undo()
        again = Bench(storage, bench.catalog, clock=bench.clock)
        again.uploads.load()
        again.uploads.resume()
        found = await again.uploads.find("u", session.session_id)
        await until(lambda: found.status() == "complete")
        assert again.content(b"copy") == DATA
        await again.close()

    run(scenario)


def test_a_version_the_user_has_needs_no_byte() -> None:
    """Another path gets a copy of its own, complete at once; another user gets nothing of it."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        copy = await bench.open(DATA, b"copy", modified_ns=7_000_000_000)
        assert copy.status() == "complete" and bench.content(b"copy") == DATA
        first, second = (bench.storage.published(Target("u", path)) for path in (b"f", b"copy"))
        assert first is not None and second is not None and first.inode != second.inode
        foreign = await bench.open(DATA, b"f", "v")
        assert foreign.status() == "incomplete"
        await bench.close()

    run(scenario)


def test_only_attributes_change_where_the_version_is_there() -> None:
    """Same path, same version: mode and time are set, no byte is copied, nothing is kept aside."""

    async def scenario() -> None:
        bench = Bench(keep_old=True)
        await bench.upload(DATA)
        before = bench.storage.published(Target("u", b"f"))
        again = await bench.open(DATA, modified_ns=9_000_000_000, mode=0o600)
        after = bench.storage.published(Target("u", b"f"))
        assert again.status() == "complete"
        assert before is not None and after is not None
        assert (after.inode, after.mtime_ns) == (before.inode, 9_000_000_000)
        assert [target.path for target, _ in bench.storage.walk("u")] == [b"f"]
        third = await bench.open(DATA, modified_ns=10_000_000_000)
        assert third.status() == "complete", "the new fingerprint was recorded"
        await bench.close()

    run(scenario)


def _spoil(bench: Bench, path: bytes) -> None:
    """Other bytes behind an unchanged record: what a disk that lies does."""
    blob = bench.storage._files[Target("u", path)]
    blob.content[:4] = b"ROT!"


def test_kept_bytes_that_rotted_are_not_copied() -> None:
    """The copy is checked; where it is not the version it becomes an ordinary upload, and the record is forgotten."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        _spoil(bench, b"f")
        session = await bench.open(DATA, b"copy")
        assert session.status() == "incomplete" and session.missing() == [(0, 5000)]
        assert bench.catalog.file(Target("u", b"f")) is None
        assert await bench.put(session, DATA) == "complete"
        assert bench.content(b"copy") == DATA
        await bench.close()

    run(scenario)


def test_a_changed_kept_file_is_an_ordinary_upload() -> None:
    """A fingerprint that is not the recorded one any more is not trusted."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        bench.storage._files[Target("u", b"f")].write(0, b"edited")
        assert (await bench.open(DATA, b"f")).status() == "incomplete"
        assert (await bench.open(DATA, b"copy")).status() == "incomplete"
        await bench.close()

    run(scenario)


def test_the_later_initiate_wins_the_path() -> None:
    """An earlier session that finishes after a later one is complete too, but leaves the path alone."""

    async def scenario() -> None:
        bench = Bench()
        old, new = os.urandom(100), os.urandom(200)
        first = await bench.open(old)
        second = await bench.open(new)
        assert await bench.put(second, new) == "complete"
        assert await bench.put(first, old) == "complete"
        assert bench.content() == new
        below = await bench.open(old, b"f/below")
        assert await bench.put(below, old) == "complete"
        assert bench.content(b"f/below") == old and bench.content() is None
        await bench.close()

    run(scenario)


def test_an_overtaken_version_is_kept_where_old_ones_are() -> None:
    """As it would have been, had it ended in time; a version that is there already is not kept twice."""

    async def scenario() -> None:
        bench = Bench(keep_old=True)
        old, new = os.urandom(100), os.urandom(200)
        first, same = await bench.open(old), await bench.open(new)
        second = await bench.open(new)
        for session, data in ((second, new), (first, old), (same, new)):
            assert await bench.put(session, data) == "complete"
        assert (bench.content(), bench.content(b"f.~1~"), bench.content(b"f.~2~")) == (new, old, None)
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_a_file_overtaken_by_a_folder_is_kept_where_old_ones_are() -> None:
    """A later initiate's file stands below its path by now; or it stood at the path, and was taken away by others."""

    async def scenario() -> None:
        bench = Bench(keep_old=True)
        old, new = os.urandom(100), os.urandom(200)
        first = await bench.open(old)
        assert await bench.put(await bench.open(new, b"f/below"), new) == "complete"
        assert await bench.put(first, old) == "complete"
        assert (bench.content(b"f/below"), bench.content(b"f.~1~")) == (new, old)
        taken = await bench.open(old, b"g")
        assert await bench.put(await bench.open(new, b"g"), new) == "complete"
        del bench.storage._files[Target("u", b"g")]
        assert await bench.put(taken, old) == "complete"
        assert bench.content(b"g.~1~") == old
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("keep_old", [True, False])
def test_a_file_overtaken_by_one_in_place_of_its_folder_is_refused(keep_old: bool) -> None:
    """There is no place for it: nobody is told that it has arrived, and it can be sent once the other is gone."""

    async def scenario() -> None:
        bench = Bench(keep_old=keep_old)
        old, new = os.urandom(100), os.urandom(200)
        first = await bench.open(old, b"f/below")
        assert await bench.put(await bench.open(new, b"f"), new) == "complete"
        with pytest.raises(Problem) as refused:
            await bench.put(first, old)
        assert refused.value.name == "path-conflict"
        assert bench.content(b"f") == new
        again = await bench.open(old, b"f/below")
        assert await bench.put(again, old) == "complete"
        assert bench.content(b"f/below") == old
        await bench.close()

    run(scenario)


def test_many_races_on_one_path_end_with_the_latest() -> None:
    """Twenty sessions finishing at once: the one initiated last is what is published."""

    async def scenario() -> None:
        bench = Bench()
        versions = [os.urandom(64) for _ in range(20)]
        sessions = [await bench.open(version) for version in versions]
        results = await asyncio.gather(*(bench.put(s, v) for s, v in zip(sessions, versions, strict=True)))
        assert set(results) == {"complete"}
        assert bench.content() == versions[-1]
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_keep_sets_old_versions_aside_but_never_equal_ones() -> None:
    """`existing: keep`: the old one stays as name.~1~; the same bytes again make nothing."""

    async def scenario() -> None:
        bench = Bench(keep_old=True)
        await bench.upload(b"one")
        await bench.upload(b"two")
        assert bench.content(b"f.~1~") == b"one" and bench.content() == b"two"
        bench.catalog.remove_file(Target("u", b"f"))  # the records do not know: the bytes are read
        await bench.upload(b"two")
        assert sorted(target.path for target, _ in bench.storage.walk("u")) == [b"f", b"f.~1~"]
        await bench.close()

    run(scenario)


def test_a_folder_in_the_way_is_a_conflict_until_it_is_gone() -> None:
    """path-conflict to chunk and status; once the folder is empty, the next status request publishes."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(b"inside", b"f/inside")
        for record in list(bench.catalog.files("u")):
            bench.catalog.remove_file(Target("u", record.path))
        session = await bench.open(DATA)
        await refused("path-conflict", bench.put(session, DATA))
        await refused("path-conflict", bench.uploads.status(session))
        await refused("path-conflict", bench.put(session, DATA, 0, 10))
        del bench.storage._files[Target("u", b"f/inside")]
        assert (await bench.uploads.status(session)).status() == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_end_before_publication_cancels() -> None:
    """Nothing is published, the space is free, a chunk on its way learns that the session is gone."""

    async def scenario() -> None:
        bench = Bench(storage=MemoryStorage(capacity=8000))
        session = await bench.open(DATA)
        slow = Slow(5000)
        task = asyncio.create_task(bench.uploads.chunk(session, chunk_of(DATA, 0, 5000), slow))
        await until(lambda: bool(session.claimed))
        assert await bench.uploads.end(session) == "cancelled"
        slow.give(DATA)
        await refused("invalid-session-id", task)
        await refused("session-not-found", bench.uploads.end(session))
        assert bench.storage.free_bytes() == 8000 and bench.content() is None
        await bench.upload(DATA)
        await bench.close()

    run(scenario)


def test_space_is_promised_once() -> None:
    """Sessions that would not fit together are refused at initiate, with what is needed and free.

    While one is being opened its room may count twice: a refusal too many, never a promise too many.
    """

    async def scenario() -> None:
        bench = Bench(storage=MemoryStorage(capacity=12_000), limits=replace(LIMITS, reserve=1000))
        results = await asyncio.gather(*(bench.open(DATA, b"%d" % i) for i in range(4)), return_exceptions=True)
        good = [result for result in results if isinstance(result, LiveSession)]
        full = [result for result in results if isinstance(result, Problem)]
        assert 1 <= len(good) <= 2 and {problem.name for problem in full} == {"storage-full"}
        if len(good) == 1:
            await bench.open(DATA, b"second")
        await refused("storage-full", bench.open(DATA, b"third"))
        assert full[0].members["requiredBytes"] == 5000 and full[0].retry_after
        await bench.uploads.end(good[0])
        await bench.open(DATA, b"again")
        await bench.close()

    run(scenario)


def test_an_allowance_is_used_up_once() -> None:
    """quota-exceeded with the members, in parallel too; other users have none."""

    async def scenario() -> None:
        bench = Bench(limits=replace(LIMITS, per_user={"u": 12_000}))
        results = await asyncio.gather(*(bench.open(DATA, b"%d" % i) for i in range(4)), return_exceptions=True)
        names = [result.name for result in results if isinstance(result, Problem)]
        assert names == ["quota-exceeded"] * 2
        await asyncio.gather(*(bench.open(DATA, b"%d" % i, "v") for i in range(4)))
        await bench.close()

    run(scenario)


def test_limits_and_hashes_are_judged_first() -> None:
    """invalid-file-hash, file-too-large: before anything is made."""

    async def scenario() -> None:
        bench = Bench(limits=Limits(file=10, chunk=5, reserve=0))
        await refused("invalid-file-hash", bench.open(DATA, file_hash="ABC"))
        await refused("file-too-large", bench.open(DATA))
        session = await bench.open(b"0123456789")
        problem = await refused("chunk-too-large", bench.put(session, b"0123456789"))
        assert problem.members["maxChunkBytes"] == 5
        await bench.close()

    run(scenario)


def test_a_full_catalog_loses_nothing() -> None:
    """Initiate and chunk answer storage-full, the session stays as it was; with room again it goes on and completes."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        await bench.put(session, DATA, 0, 1000)
        bench.catalog.full = {"add_session", "record_stored", "end"}
        await refused("storage-full", bench.open(DATA, b"other"))
        await refused("storage-full", bench.put(session, DATA, 1000, 3000))
        await refused("storage-full", bench.uploads.end(session))
        assert (await bench.uploads.status(session)).missing() == [(1000, 5000)]
        assert len(list(bench.storage.partials())) == 1
        bench.catalog.full = set()
        liar = bytes(1000) + DATA[2000:3000]
        good = DATA[1000:3000]
        assert liar != good
        assert await bench.uploads.chunk(session, chunk_of(good, 1000, 5000), Came(good)) == "incomplete"
        assert await bench.put(session, DATA, 3000) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_hashing_begins_anew_where_a_commit_failed() -> None:
    """Bytes hashed before their commit failed may come again with other content: the hash is of the stored ones."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.catalog.full = {"record_stored"}
        wrong = bytes(3000)
        await refused("storage-full", bench.uploads.chunk(session, chunk_of(wrong, 0, 5000), Came(wrong)))
        bench.catalog.full = set()
        assert await bench.put(session, DATA) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_full_catalog_at_the_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed but not recorded: the status stays verifying, and becomes complete when there is room; an end waits."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr("chunkyd.server.uploads.OUTCOME_WAIT_SECONDS", 0.02)

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.catalog.full = {"complete"}
        assert await bench.put(session, DATA) == "verifying"
        ending = asyncio.create_task(bench.uploads.end(session))
        await asyncio.sleep(0)
        assert not ending.done()
        bench.catalog.full = set()
        assert await ending == "ended"
        assert bench.content() == DATA
        record = bench.catalog.file(Target("u", b"f"))
        assert isinstance(record, FileRecord) and record.file_hash == sha(DATA)
        await bench.close()

    run(scenario)


def test_whoever_asks_hastens_what_the_server_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many vain tries the next one is far away: one who has mended the folder and asks does not wait for it."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr("chunkyd.server.uploads.OUTCOME_WAIT_SECONDS", 0.01)

    async def scenario() -> None:
        bench = Bench()
        tries: list[float] = []
        publish = bench.storage.publish

        def shut(*arguments: Any, **named: Any) -> Any:
            tries.append(time.monotonic())
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(bench.storage, "publish", shut)
        session = await bench.open(DATA)
        assert await bench.put(session, DATA) == "verifying"

        async def told() -> Problem:
            await until(lambda: session.refusal is not None)
            with pytest.raises(Problem) as error:
                await bench.uploads.status(session)
            return error.value

        while len(tries) < 12:  # the next one by itself would come in half a minute
            assert (await told()).retry_after == 0.02
            await asyncio.sleep(0.005)
        assert min(later - earlier for earlier, later in pairwise(tries)) > 0.019
        count = len(tries)
        await asyncio.sleep(0.1)
        assert len(tries) <= count + 1, "nobody asks: the server takes its time"
        monkeypatch.setattr(bench.storage, "publish", publish)
        await told()
        await until(lambda: session.status() == "complete")
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_partial_somebody_deleted_ends_its_session() -> None:
    """The client is told to begin anew, and nothing fails later."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.storage.discard(session.session_id)
        await refused("invalid-session-id", bench.put(session, DATA))
        await refused("invalid-session-id", bench.uploads.find("u", session.session_id))
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("state", ["receiving", "stored", "copying", "publishing", "renamed", "overwritten"])
def test_a_restart_goes_on_from_every_state(state: str) -> None:
    """From the records and the partials alone, a new server brings each session to its right end."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(b"kept version", b"kept")
        session = await bench.open(DATA)
        name = session.session_id
        if state == "receiving":
            await bench.put(session, DATA, 0, 2000)
        else:
            _stored_but_unfinished(bench, name, state)
        bench.storage.create("0" * 32, 10)  # an orphan
        await bench.close()

        again = Bench(bench.storage, bench.catalog, clock=bench.clock)
        again.uploads.load()
        again.uploads.resume()
        assert "0" * 32 not in list(again.storage.partials())
        found = await again.uploads.find("u", name)
        if state == "receiving":
            assert found.missing() == [(2000, 5000)]
            assert await again.put(found, DATA, 2000) == "complete"
        await until(lambda: found.status() == "complete")
        expected = b"newer" if state == "overwritten" else DATA
        assert again.content() == expected
        assert not list(again.storage.partials())
        await again.close()

    def _stored_but_unfinished(bench: Bench, name: str, state: str) -> None:
        partial = bench.storage.open(name)
        partial.write(0, DATA)
        deadline = bench.clock.wall() + 100
        bench.catalog.record_stored([StoredRange(name, 0, 5000, deadline)])
        if state == "stored":
            return
        if state == "copying":
            bench.storage.discard(name)
            bench.storage.create(name, 5000)
            source = bench.storage.open(name)
            source.write(0, DATA)
            bench.storage.publish(name, Target("u", b"source"), keep_old=False)
            bench.storage.create(name, 5000)
            found = bench.storage.published(Target("u", b"source"))
            assert found is not None
            bench.catalog.put_file(FileRecord("u", b"source", sha(DATA), 5000, found, 1, 0.0))
            record = bench.catalog._sessions[name]
            bench.catalog._stored.pop(name)
            bench.catalog._sessions[name] = replace(record, state=SessionState.COPYING, copy_of=b"source")
            return
        inode = bench.storage.prepare(name, Attributes()).inode
        bench.catalog.move(name, {SessionState.RECEIVING}, SessionState.PUBLISHING, inode=inode)
        if state in ("renamed", "overwritten"):
            bench.storage.publish(name, Target("u", b"f"), keep_old=False)
        if state == "overwritten":
            bench.storage.create("f" * 32, 5)
            bench.storage.open("f" * 32).write(0, b"newer")
            bench.storage.publish("f" * 32, Target("u", b"f"), keep_old=False)

    run(scenario)


def test_rot_in_a_partial_is_found_after_a_restart() -> None:
    """PUBLISHING with the partial still there is verified once more: damaged bytes are never published."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, file_hash=sha(b"different"))
        partial = bench.storage.open(session.session_id)
        partial.write(0, DATA)
        bench.catalog.move(session.session_id, {SessionState.RECEIVING}, SessionState.PUBLISHING, inode=1)
        await bench.close()
        again = Bench(bench.storage, bench.catalog, clock=bench.clock)
        again.uploads.load()
        again.uploads.resume()
        found = await again.uploads.find("u", session.session_id)
        await until(lambda: found.state is SessionState.DEAD)
        assert again.content() is None
        await again.close()

    run(scenario)


@pytest.mark.parametrize("size", [1000, 6000])
def test_a_partial_of_another_length_is_one_of_other_bytes(size: int) -> None:
    """Whoever cut it, or made it longer: its session is dead, its client begins anew, and nothing is published."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        bench.storage.open(session.session_id).write(0, DATA)
        bench.catalog.move(session.session_id, {SessionState.RECEIVING}, SessionState.PUBLISHING, inode=1)
        await bench.close()
        bench.storage._partials[session.session_id].size = size
        again = Bench(bench.storage, bench.catalog, clock=bench.clock)
        again.uploads.load()
        again.uploads.resume()
        found = await again.uploads.find("u", session.session_id)
        await until(lambda: found.state is SessionState.DEAD)
        assert again.content() is None
        await again.close()

    run(scenario)


def test_stopping_refuses_bodies_on_their_way() -> None:
    """A body that still waits gets shutting-down; what was stored before stays."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA)
        slow = Slow(5000)
        task = asyncio.create_task(bench.uploads.chunk(session, chunk_of(DATA, 0, 5000), slow))
        slow.give(DATA[:10])
        await until(lambda: bool(session.claimed))
        bench.uploads.stop_bodies()
        await refused("shutting-down", task)
        assert not session.claimed
        await bench.close()

    run(scenario)
