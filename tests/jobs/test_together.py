"""Many small jobs for one worker: claimed together, arrived together, done together."""

from __future__ import annotations

import itertools

import pytest

from chunkyd.clock import ManualClock
from chunkyd.jobs.job import Change, Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import State
from chunkyd.jobs.steps import Arrival
from tests.jobs.shared import HASH, RUN, URL, change, claim, now, version

ALL = 1 << 60


def companions(queue: Queue, first: Job, *, jobs: int = 100, size: int = ALL, total: int = ALL) -> list[bytes]:
    """The paths of the jobs that go with this one."""
    return [job.path for job in queue.claim_with(first, jobs=jobs, size=size, total=total)]


def sized(path: bytes, size: int) -> Change:
    """A change of a file of so many bytes."""
    return Change("films", path, version(1, size))


def test_companions_are_claimed(queue: Queue) -> None:
    """The rest of the folder, oldest first, by the same worker; nobody else gets them."""
    queue.offer([change(b"%d" % number) for number in range(5)])
    first = claim(queue)
    taken = queue.claim_with(first, jobs=3, size=ALL, total=ALL)
    assert [job.path for job in taken] == [b"1", b"2", b"3"]
    assert all(job.state is State.HASHING and job.claimed_by == RUN and job.claims == 1 for job in taken)
    assert claim(queue).path == b"4"
    assert queue.claim(RUN, ["films"]) is None


def test_others_stay(queue: Queue) -> None:
    """Another folder, another priority, a job of its own pause: none of them goes along."""
    queue.offer([change(b"first"), change(b"elsewhere", folder="photos"), change(b"paused")])
    queue.offer([change(b"urgent", priority=5)])
    urgent = claim(queue)
    assert companions(queue, urgent) == []
    first = claim(queue)
    queue.pause_user(ids=[next(job.id for job in queue.jobs() if job.path == b"paused")])
    assert companions(queue, first) == []


@pytest.mark.parametrize("hold", ["all", "folder", "missing"])
def test_a_held_folder_gives_nothing(queue: Queue, hold: str) -> None:
    """Paused as a whole, by folder, or without its root: nothing is claimed any more."""
    queue.offer([change(b"a"), change(b"b")])
    first = claim(queue)
    if hold == "missing":
        queue.root_missing("films")
    else:
        queue.pause_user(folder=None if hold == "all" else "films")
    assert companions(queue, first) == []


def test_sizes(queue: Queue) -> None:
    """None is larger than asked for, the last one fills what was asked for; a large one in between is passed over."""
    queue.offer(
        [sized(b"first", 1), sized(b"small", 10), sized(b"large", 1000), sized(b"next", 10), sized(b"last", 10)]
    )
    assert companions(queue, claim(queue), size=100, total=15) == [b"small", b"next"]


def test_what_was_begun_before_goes_alone(queue: Queue, clock: ManualClock) -> None:
    """A job with a session, or with a failed attempt, is not taken along."""
    queue.offer([change(b"session"), change(b"failed"), change(b"first"), change(b"fresh")])
    session, failed = claim(queue), claim(queue)
    queue.opened(session, "s", URL, HASH)
    queue.release(session)
    queue.wait(failed, "no luck")
    clock.advance(3600)
    first = claim(queue)
    assert first.path == b"session"
    assert companions(queue, first) == [b"first", b"fresh"]


def test_nobody_is_overtaken(queue: Queue) -> None:
    """A file and a folder of one name, and a newer version beside one that has arrived, are not for the same worker."""
    queue.offer([change(b"a"), change(b"a/b"), change(b"c/d"), change(b"c"), change(b"e")])
    assert companions(queue, claim(queue)) == [b"c/d", b"e"]


def test_arrived_and_done(queue: Queue) -> None:
    """Each step is one for all: arrived with hash and bytes, then done, known as sent and not queued again."""
    changes = [change(b"%d" % number) for number in range(4)]
    queue.offer(changes)
    first = claim(queue)
    jobs = [first, *queue.claim_with(first, jobs=10, size=ALL, total=ALL)]
    assert [job.id for job in queue.arrived_together([Arrival(job, HASH, 7) for job in jobs], URL)] == [
        job.id for job in jobs
    ]
    for job in jobs:
        after = now(queue, job)
        assert (after.state, after.file_hash, after.bytes_sent) == (State.FINISHING, HASH, 7)
        assert after.arrived is not None
    assert queue.done_together([(job, job.fingerprint) for job in jobs]) == 4
    assert {now(queue, job).state for job in jobs} == {State.DONE}
    queue.offer(changes)
    assert queue.claim(RUN, ["films"]) is None


def test_who_lost_the_claim_takes_no_step(queue: Queue) -> None:
    """Cancelled or superseded meanwhile: that one neither arrives nor is done, the others do."""
    queue.offer([change(b"%d" % number) for number in range(3)])
    first = claim(queue)
    jobs = [first, *queue.claim_with(first, jobs=10, size=ALL, total=ALL)]
    queue.cancel([jobs[1].id])
    arrived = queue.arrived_together([Arrival(job, HASH, 0) for job in jobs], URL)
    assert [job.path for job in arrived] == [b"0", b"2"]
    assert queue.done_together([(job, job.fingerprint) for job in jobs]) == 2
    assert now(queue, jobs[1]).state is State.CANCELLED


def test_who_lost_the_claim_is_in_nobodys_way(queue: Queue) -> None:
    """A file replaced while it travelled with others: the claim is given back, and the newer version goes on."""
    queue.offer([change(b"%d" % number) for number in range(2)])
    first = claim(queue)
    jobs = [first, *queue.claim_with(first, jobs=10, size=ALL, total=ALL)]
    newer = change(b"1", number=2)
    queue.offer([newer])
    assert queue.claim(RUN, ["films"]) is None  # a worker has the older version still
    assert [job.path for job in queue.arrived_together([Arrival(job, HASH, 0) for job in jobs], URL)] == [b"0"]
    assert claim(queue).fingerprint == newer.fingerprint


def test_a_crash_gives_all_back(queue: Queue) -> None:
    """After a crash companions are queued again like any other; those that arrived have only their finish left."""
    queue.offer([change(b"%d" % number) for number in range(3)])
    first = claim(queue)
    jobs = [first, *queue.claim_with(first, jobs=10, size=ALL, total=ALL)]
    queue.arrived_together([Arrival(jobs[0], HASH, 0)], URL)
    recovered = queue.recover("another run")
    assert (recovered.jobs, recovered.arrived) == (3, 1)
    assert [claim(queue).state for _ in range(3)] == [State.FINISHING, State.HASHING, State.HASHING]


def test_each_of_many_costs_three_statements(queue: Queue) -> None:
    """From `complete` to done a small file among many costs the table three statements, and no question."""
    queue.offer([change(b"%d" % number) for number in range(100)])
    first = claim(queue)
    jobs = [first, *queue.claim_with(first, jobs=99, size=ALL, total=ALL)]
    statements: list[str] = []
    queue._tables.connection().set_trace_callback(statements.append)
    arrived = queue.arrived_together([Arrival(job, HASH, 10) for job in jobs], URL)
    assert queue.done_together([(job, job.fingerprint) for job in arrived]) == 100
    queue._tables.connection().set_trace_callback(None)
    # A statement is traced again for each trigger it pulls.
    ours = [each for each, _ in itertools.groupby(statements) if each.startswith(("UPDATE", "INSERT", "SELECT"))]
    assert len(ours) == 300
