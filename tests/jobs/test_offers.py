"""What becomes a job, and what does not."""

from __future__ import annotations

import pytest

from chunkyd.clock import ManualClock
from chunkyd.files import Fingerprint
from chunkyd.jobs import offers
from chunkyd.jobs.job import Change
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from tests.jobs.shared import HASH, URL, arrive, change, claim, now, version


def test_a_version_is_queued_once(queue: Queue) -> None:
    """The same version offered again, in one batch or another, makes no second job."""
    assert queue.offer([change(b"a"), change(b"a"), change(b"b")]) == 2
    assert queue.offer([change(b"a"), change(b"b")]) == 0


def test_what_was_sent_is_not_queued_again(queue: Queue) -> None:
    """A version that arrived is known; another version of the same file is new."""
    queue.offer([change(b"a")])
    arrive(queue, claim(queue))
    assert queue.offer([change(b"a")]) == 0
    assert queue.offer([change(b"a", 2)]) == 1


@pytest.mark.parametrize("path", [b"a\xff\xfe", b"\n", b"d/\xf0\x9f\x98\x80", b"x" * 255, b'it\'s "quoted" %s ? \\'])
def test_names_are_bytes(queue: Queue, path: bytes) -> None:
    """Any name a file may have comes back as it was."""
    queue.offer([change(path, folder="f\udcff")])
    job = queue.claim("run", ["f\udcff"])
    assert job is not None
    assert (job.folder, job.path) == ("f\udcff", path)


@pytest.mark.parametrize("mtime_ns", [-1, 2**63, 253_402_300_799_999_999_999, -62_135_596_800_000_000_001])
def test_the_largest_numbers_come_back(queue: Queue, mtime_ns: int) -> None:
    """Device and inode numbers may use all 64 bits, times of far years more; once sent, such a version is known."""
    found = Fingerprint(2**64 - 1, 2**63, 2**62, mtime_ns, 2**62)
    queue.offer([Change("films", b"a", found)])
    job = claim(queue)
    assert job.fingerprint == found
    arrive(queue, job)
    assert queue.offer([Change("films", b"a", found)]) == 0


def test_a_newer_version_takes_the_place(queue: Queue) -> None:
    """An unfinished job of an older version is superseded, its session to be ended, and the newer one carries on."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.opened(job, "old-session", URL, HASH)
    queue.release(job)
    assert queue.offer([change(b"a", 2)]) == 1
    assert now(queue, job).state is State.SUPERSEDED
    assert [ending.session_id for ending in queue.endings()] == ["old-session"]
    assert claim(queue).fingerprint == version(2)


def test_what_was_sent_may_have_been_replaced_at_the_server(queue: Queue) -> None:
    """A newer version's job was begun and had no end: the version before is sent again when it is back."""
    queue.offer([change(b"a")])
    arrive(queue, claim(queue))
    queue.offer([change(b"a", 2)])
    queue.gone(claim(queue))
    assert queue.versions("films", [b""]) == {b"": {}}
    assert queue.offer([change(b"a")]) == 1


def test_what_was_never_begun_replaced_nothing(queue: Queue) -> None:
    """A newer version's job that nobody began leaves the version before as it was: sent."""
    queue.offer([change(b"a")])
    arrive(queue, claim(queue))
    queue.offer([change(b"a", 2)])
    queue.source_gone("films", b"a")
    assert queue.offer([change(b"a")]) == 0


def test_a_failed_job_waits_for_another_version(queue: Queue) -> None:
    """The version that failed is not queued again; a newer one supersedes the failure."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.fail(job, Reason.REFUSED, "no")
    assert queue.offer([change(b"a")]) == 0
    assert queue.offer([change(b"a", 2)]) == 1
    assert now(queue, job).state is State.SUPERSEDED


def test_a_cancelled_job_waits_for_another_version(queue: Queue) -> None:
    """What the user cancelled stays so until the file's fingerprint changes, also after the history is dropped."""
    queue.offer([change(b"a")])
    queue.cancel([1])
    queue.prune(keep_rows=0)
    assert queue.job(1) is None
    assert queue.offer([change(b"a")]) == 0
    assert queue.offer([change(b"a", 2)]) == 1


def test_a_vanished_source_blocks_nothing(queue: Queue) -> None:
    """A file that vanished and is back is queued again, whatever its fingerprint."""
    queue.offer([change(b"a")])
    assert queue.source_gone("films", b"a") == 1
    assert queue.offer([change(b"a")]) == 1


def test_the_users_pause_goes_over_to_the_newer_version(queue: Queue) -> None:
    """A file edited while its job is paused stays paused."""
    queue.offer([change(b"a")])
    queue.pause_user(ids=[1])
    queue.offer([change(b"a", 2)])
    assert queue.claim("run", ["films"]) is None
    assert queue.jobs()[0].user_paused


def test_a_newer_version_waits_for_one_that_has_arrived(queue: Queue) -> None:
    """A finishing job is not superseded: the newer version is claimed once it is done."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    assert queue.offer([change(b"a", 2)]) == 1
    assert queue.claim("run", ["films"]) is None
    assert queue.done(job, job.fingerprint)
    assert claim(queue).fingerprint == version(2)


@pytest.mark.parametrize(("looks", "state"), [(1, State.WAITING), (4, State.PAUSED)])
def test_a_newer_version_waits_for_no_deadline(queue: Queue, clock: ManualClock, looks: int, state: State) -> None:
    """An older one that has arrived, and is only looked at now and then, or ever more rarely, is finished at once."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    for look in range(looks):
        if look:
            clock.advance(100)
            job = claim(queue)
        queue.wait(job, "open for writing", paused_for=Reason.SOURCE)
    assert now(queue, job).state is state
    assert queue.offer([change(b"a", 2)]) == 1
    again = claim(queue)
    assert (again.id, again.state) == (job.id, State.FINISHING)
    queue.done(again, again.fingerprint)
    assert claim(queue).fingerprint == version(2)


def test_versions_are_told_by_directory(queue: Queue) -> None:
    """Queued, failed, sent and cancelled versions are told; vanished, superseded and other directories' are not."""
    queue.offer([change(b"d/failed"), change(b"d/sent"), change(b"d/cancelled"), change(b"d/gone"), change(b"d/e/f")])
    queue.fail(claim(queue), Reason.SOURCE, "no")
    arrive(queue, claim(queue))
    queue.cancel([3])
    queue.source_gone("films", b"d/gone")
    queue.offer([change(b"d/queued"), change(b"d/sent", 2), change(b"other")])
    found = queue.versions("films", [b"d"])[b"d"]
    assert set(found) == {b"failed", b"sent", b"cancelled", b"queued"}
    assert found[b"sent"] == version(2)
    assert set(queue.versions("films", [b""])[b""]) == {b"other"}
    assert queue.versions("photos", [b"d"])[b"d"] == {}


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("first", [b"a", b"b", b"c", b"d"])
def test_directories_asked_for_ahead(queue: Queue, monkeypatch: pytest.MonkeyPatch, first: bytes, most: int) -> None:
    """The first directory is told whole, others whole or not at all, however few rows may be read ahead."""
    monkeypatch.setattr(offers, "_MOST_ROWS", most)
    paths = [b"a/1", b"a/2", b"c/1", b"c/2", b"c/3", b"d/1"]
    queue.offer([change(path) for path in paths])
    arrive(queue, claim(queue))
    queue.offer([change(b"a/1", 2)])
    alone = {each: queue.versions("films", [each])[each] for each in (b"a", b"b", b"c", b"d")}
    assert [len(alone[each]) for each in (b"a", b"b", b"c", b"d")] == [2, 0, 3, 1]
    assert alone[b"a"][b"1"] == version(2)
    found = queue.versions("films", [first, b"d", b"c", b"b", b"a"])
    assert found == {each: alone[each] for each in found}
    assert first in found
    if most > len(paths) + 1:
        assert found == alone


def test_where_inodes_mean_nothing_size_and_time_decide(queue: Queue) -> None:
    """An inode of 0 in either fingerprint leaves size and mtime to tell versions apart."""
    queue.offer([change(b"a")])
    same = Fingerprint(device=0, inode=0, size=1000, mtime_ns=1, ctime_ns=0)
    assert queue.offer([Change("films", b"a", same)]) == 0
    assert queue.offer([Change("films", b"a", Fingerprint(0, 0, 1000, 2, 0))]) == 1


def test_a_hash_is_known_for_its_version_only(queue: Queue) -> None:
    """A hash taken before is given for the same version, of an open or of a sent job, and for no other."""
    queue.offer([change(b"a")])
    job = claim(queue)
    assert queue.known_hash("films", b"a", version(1)) is None
    queue.hashed(job, HASH)
    assert queue.known_hash("films", b"a", version(1)) == HASH
    arrive(queue, job)
    assert queue.known_hash("films", b"a", version(1)) == HASH
    assert queue.known_hash("films", b"a", version(2)) is None


def test_a_file_back_with_its_root_goes_on(queue: Queue, clock: ManualClock) -> None:
    """A job paused because its root was another is not counted as known, and goes on when its file is offered."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.pause(job, Reason.ROOT_MISSING, "another disk is there")
    clock.advance(1e6)
    assert queue.claim("run", ["films"]) is None
    assert queue.versions("films", [b""])[b""] == {}
    assert queue.offer([change(b"a")]) == 1
    assert claim(queue).id == job.id


def test_the_pool_is_told_once_for_a_batch(queue: Queue) -> None:
    """`on_change` is called after a batch that queued something, and not after one that did not."""
    calls: list[int] = []
    queue.on_change = lambda: calls.append(1)
    queue.offer([change(b"a"), change(b"b")])
    queue.offer([change(b"a")])
    assert calls == [1]
