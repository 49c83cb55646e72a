"""Which job is next, what is in its way, and what comes back after a crash."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from tests.jobs.shared import HASH, RUN, URL, arrive, change, claim, now, open_queue


def test_priority_then_age(queue: Queue) -> None:
    """The highest priority goes first, then the oldest, over all folders."""
    queue.offer([change(b"old"), change(b"new"), change(b"urgent", priority=5), change(b"other", folder="photos")])
    queue.offer([change(b"most", folder="photos", priority=9)])
    order = [claim(queue, "films", "photos").path for _ in range(5)]
    assert order == [b"most", b"urgent", b"old", b"new", b"other"]


def test_only_configured_folders(queue: Queue) -> None:
    """Jobs of a folder that is not configured stay where they are."""
    queue.offer([change(b"a")])
    assert queue.claim(RUN, ["photos"]) is None
    assert queue.claim(RUN, []) is None
    assert queue.jobs()[0].state is State.QUEUED


def test_a_missing_root_holds_its_folder(queue: Queue) -> None:
    """Jobs below a missing root are not claimed and shown so, those of other folders are."""
    queue.offer([change(b"a"), change(b"b", folder="photos")])
    queue.root_missing("films")
    assert claim(queue, "films", "photos").path == b"b"
    assert queue.claim(RUN, ["films", "photos"]) is None
    job = queue.jobs(folder="films")[0]
    assert (job.shown_state, job.shown_reason) == (State.PAUSED, Reason.ROOT_MISSING)
    queue.root_back("films")
    assert claim(queue).path == b"a"


def test_a_root_that_is_back_takes_its_paused_jobs_along(queue: Queue) -> None:
    """A job that its worker paused for want of its root goes on when the root is back."""
    queue.offer([change(b"a")])
    queue.pause(claim(queue), Reason.ROOT_MISSING, "not there")
    queue.root_back("photos")
    assert queue.claim(RUN, ["films"]) is None
    queue.root_back("films")
    assert claim(queue).path == b"a"


@pytest.mark.parametrize(
    ("older", "newer"), [(b"a", b"a/b"), (b"a/b", b"a"), (b"a", b"a/b/c/d"), (b"a/b/c/d", b"a"), (b"x/a", b"x/a/b")]
)
def test_a_file_and_a_folder_of_one_name_take_turns(queue: Queue, older: bytes, newer: bytes) -> None:
    """A job waits for the end of an older one on a path above or below its own, even if it is more urgent."""
    queue.offer([change(older)])
    queue.offer([change(newer, priority=9)])
    first = claim(queue)
    assert first.path == older
    assert queue.claim(RUN, ["films"]) is None
    arrive(queue, first)
    assert claim(queue).path == newer


@pytest.mark.parametrize(
    ("one", "other"), [(b"a", b"ab"), (b"a", b"a.b"), (b"a/b", b"a0"), (b"a\xff", b"a"), (b"b", b"a/b")]
)
def test_similar_names_are_not_in_each_others_way(queue: Queue, one: bytes, other: bytes) -> None:
    """Only whole parts of a path count."""
    queue.offer([change(one), change(other)])
    assert {claim(queue).path, claim(queue).path} == {one, other}


def test_the_same_name_in_another_folder_is_another_file(queue: Queue) -> None:
    """Two folders may each have a file of one name under way."""
    queue.offer([change(b"a"), change(b"a/b", folder="photos")])
    assert {claim(queue, "films", "photos").folder for _ in range(2)} == {"films", "photos"}


def test_a_failed_job_is_in_nobodys_way(queue: Queue) -> None:
    """What has failed has ended, as far as others on its path are concerned; revived, it waits for them."""
    queue.offer([change(b"a"), change(b"a/b")])
    first = claim(queue)
    queue.fail(first, Reason.SOURCE, "is a folder now")
    second = claim(queue)
    assert second.path == b"a/b"
    queue.retry([first.id])
    assert queue.claim(RUN, ["films"]) is None
    queue.release(second)
    assert claim(queue).id == first.id
    assert queue.claim(RUN, ["films"]) is None


def test_a_superseded_worker_is_waited_for(queue: Queue) -> None:
    """The newer version is claimed only when the older one's worker has left."""
    queue.offer([change(b"a")])
    older = claim(queue)
    queue.offer([change(b"a", 2)])
    assert queue.unwanted() == {older.id}
    assert queue.claim(RUN, ["films"]) is None
    assert not queue.release(older)
    assert claim(queue).path == b"a"


def test_many_blocked_jobs_are_passed_over(queue: Queue) -> None:
    """A thousand jobs that must wait do not keep another from being found, and all go when they may."""
    queue.offer([change(b"a")])
    blocker = claim(queue)
    queue.offer([change(b"a/%d" % number, priority=1) for number in range(1200)] + [change(b"z")])
    assert claim(queue).path == b"z"
    assert queue.claim(RUN, ["films"]) is None
    queue.gone(blocker)
    assert claim(queue).path == b"a/0"
    assert claim(queue).path == b"a/1"


def test_a_crash_gives_its_claims_back(tmp_path: Path, clock: ManualClock) -> None:
    """The next start takes back what was under way, with session and progress, and charges no attempt."""
    first = open_queue(tmp_path, clock)
    first.offer([change(b"fresh"), change(b"sending"), change(b"arrived"), change(b"replaced"), change(b"waiting")])
    jobs = [claim(first) for _ in range(4)]
    for job in jobs[1:3]:
        first.opened(job, f"session-{job.id}", URL, HASH)
    first.progress(jobs[1], 400, 500)
    first.finishing(jobs[2], URL)
    first.offer([change(b"replaced", 2)])
    first.close()

    second = open_queue(tmp_path, clock)
    recovered = second.recover("next-run")
    assert (recovered.jobs, recovered.resumable, recovered.arrived) == (3, 1, 1)
    again = {job.path: job for job in iter(lambda: second.claim("next-run", ["films"]), None)}
    assert set(again) == {b"fresh", b"sending", b"arrived", b"waiting", b"replaced"}
    sending = again[b"sending"]
    assert (sending.session_id, sending.resumed_from, sending.resumed_times) == ("session-2", 400, 1)
    assert (sending.bytes_sent, sending.attempts) == (500, 0)
    assert again[b"arrived"].state is State.FINISHING
    assert again[b"fresh"].state is State.HASHING
    assert again[b"fresh"].resumed_times == 0
    second.close()


def test_a_worker_of_an_earlier_claim_changes_nothing(queue: Queue) -> None:
    """Once a job was given back and claimed again, whoever had it before can neither move nor release it."""
    queue.offer([change(b"a")])
    earlier = claim(queue)
    queue.release(earlier)
    later = claim(queue)
    before = now(queue, later)
    queue.progress(earlier, 10, 10)
    assert not queue.opened(earlier, "lost", URL, HASH)
    assert not queue.finishing(earlier, URL)
    assert not queue.done(earlier, earlier.fingerprint)
    assert not queue.gone(earlier)
    assert not queue.fail(earlier, Reason.ERROR, "no")
    assert not queue.release(earlier)
    assert now(queue, later) == before
    assert [ending.session_id for ending in queue.endings()] == ["lost"]


def test_waiting_jobs_come_due(queue: Queue, clock: ManualClock) -> None:
    """A waiting job is not claimed before its time, and `next_due` tells that time."""
    queue.offer([change(b"a")])
    assert queue.next_due() is None
    queue.wait(claim(queue), "reset by peer")
    due = queue.next_due()
    assert due == clock.wall() + 0.5
    assert queue.claim(RUN, ["films"]) is None
    clock.advance(0.5)
    assert claim(queue).attempts == 1


@pytest.mark.parametrize("step", [-1e7, 1e7])
def test_a_step_of_the_wall_clock_moves_the_waits(queue: Queue, clock: ManualClock, step: float) -> None:
    """What was to wait ten seconds waits ten seconds, whichever way the clock was set."""
    queue.offer([change(b"a")])
    queue.wait(claim(queue), "busy", retry_after=10)
    clock.step_wall(step)
    assert queue.next_due() == clock.wall() + 10
    assert queue.claim(RUN, ["films"]) is None
    clock.advance(10)
    assert claim(queue).path == b"a"


@pytest.mark.parametrize("step", [86400.0, -86400.0])
def test_a_wait_that_begins_after_a_step_is_not_moved_by_it(queue: Queue, clock: ManualClock, step: float) -> None:
    """The clock is set, a job begins to wait before anybody has noticed: it waits ten seconds, not a day."""
    queue.offer([change(b"a"), change(b"b")])
    first, second = claim(queue), claim(queue)
    clock.step_wall(step)
    queue.wait(first, "busy", retry_after=10)
    queue.pause(second, Reason.SERVER_FULL, "full", retry_after=10)
    assert queue.next_due() == clock.wall() + 10
    clock.advance(11)
    assert {claim(queue).path, claim(queue).path} == {b"a", b"b"}


@pytest.mark.parametrize("retry_after", [None, 3600.0])
def test_a_deadline_of_a_wrong_clock_is_brought_near(tmp_path: Path, retry_after: float | None) -> None:
    """A wait set while the clock was years ahead ends soon after a start with the right time, the server's too."""
    ahead = ManualClock(wall=3e9)
    first = open_queue(tmp_path, ahead)
    first.offer([change(b"a")])
    first.wait(claim(first), "reset by peer", retry_after)
    first.close()
    clock = ManualClock(wall=1.8e9)
    second = open_queue(tmp_path, clock)
    second.recover(RUN)
    due = second.next_due()
    assert due is not None and due <= clock.wall() + 60
    clock.advance(60)
    assert claim(second).path == b"a"
    second.close()


def test_threads_never_share_a_job(queue: Queue) -> None:
    """Eight threads that claim, fail and finish at once: each job is run by one at a time, and all arrive."""
    queue.offer([change(b"%d/%d" % (number % 7, number)) for number in range(120)])
    running: Counter[int] = Counter()
    guard = threading.Lock()
    errors: list[str] = []

    def work() -> None:
        while (job := queue.claim(RUN, ["films"])) is not None:
            with guard:
                running[job.id] += 1
                if running[job.id] > 1:
                    errors.append(f"job {job.id} was given out twice")
            queue.hashed(job, HASH)
            queue.opened(job, f"s{job.id}-{job.claims}", URL, HASH)
            queue.progress(job, 1, 1)
            with guard:
                running[job.id] -= 1
            if job.claims == 1 and job.id % 5 == 0:
                queue.release(job)
            else:
                queue.finishing(job, URL)
                queue.done(job, job.fingerprint)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert queue.counts()[State.DONE] == 120
