"""Lists, history and counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from tests.jobs.shared import arrive, change, claim, open_queue


def test_pages_are_whole_and_in_order(queue: Queue) -> None:
    """Page after page, oldest first, every open job comes once; a folder's alone if asked."""
    queue.offer([change(b"%03d" % number, folder=("films", "photos")[number % 2]) for number in range(25)])
    arrive(queue, claim(queue))
    found: list[int] = []
    while page := queue.jobs(limit=10, after=found[-1] if found else 0):
        found += [job.id for job in page]
    assert found == list(range(2, 26))
    assert [job.id for job in queue.unfinished("films", after=20, limit=3)] == [21, 23, 25]


def test_history_is_in_the_order_of_the_ends(queue: Queue) -> None:
    """Newest end first, whichever job began first; page after page, of one folder if asked."""
    queue.offer([change(b"%d" % number, folder=("films", "photos")[number % 2]) for number in range(6)])
    jobs = {job.id: job for job in (claim(queue, "films", "photos") for _ in range(6))}
    for number in (3, 1, 6, 2):
        arrive(queue, jobs[number])
    queue.gone(jobs[4])
    assert [job.id for job in queue.history()] == [4, 2, 6, 1, 3]
    first = queue.history(limit=2)
    assert [job.id for job in queue.history(limit=2, after=first[-1].finish_number)] == [6, 1]
    assert [job.id for job in queue.history(folder="films")] == [1, 3]
    assert [job.id for job in queue.jobs()] == [5]


def test_ended_jobs_are_listed_by_state_if_asked(queue: Queue) -> None:
    """`jobs` gives ended ones only where their state is named."""
    queue.offer([change(b"a"), change(b"b"), change(b"c")])
    arrive(queue, claim(queue))
    queue.cancel([2])
    assert [job.id for job in queue.jobs([State.DONE])] == [1]
    assert [job.id for job in queue.jobs([State.DONE, State.CANCELLED, State.QUEUED])] == [1, 2, 3]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """A job of every kind in two folders, some paused by the user."""
    queue = open_queue(tmp_path_factory.mktemp("mixed"), ManualClock())
    queue.offer([change(b"%02d" % number, folder=("films", "photos")[number % 2]) for number in range(24)])
    jobs = [claim(queue, "films", "photos") for _ in range(20)]
    for offset in (0, 1, 10, 11):
        queue.opened(jobs[offset], f"s{offset}", "url", "hash")
        queue.wait(jobs[offset + 2], "reset", retry_after=1e6)
        queue.pause(jobs[offset + 4], Reason.SERVER_FULL, "full", retry_after=1e6)
        queue.fail(jobs[offset + 6], Reason.SOURCE, "no")
        arrive(queue, jobs[offset + 8])
    queue.pause_user(ids=[job.id for job in jobs if job.id > 10] + [22])
    return queue


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    everything=st.booleans(),
    paused=st.sets(st.sampled_from(["films", "photos"])),
    missing=st.sets(st.sampled_from(["films", "photos"])),
    held=st.booleans(),
    states=st.sets(st.sampled_from(State)),
    folder=st.sampled_from([None, "films", "photos"]),
)
def test_the_filter_and_the_counts_say_what_is_shown(
    mixed: Queue,
    everything: bool,
    paused: set[str],
    missing: set[str],
    held: bool,
    states: set[State],
    folder: str | None,
) -> None:
    """Whatever is paused, missing or held: filtering by state and counting agree with each job's shown state."""
    if everything:
        mixed.pause_user()
    for name in paused:
        mixed.pause_user(folder=name)
    for name in missing:
        mixed.root_missing(name)
    if held:
        mixed.hold(Reason.NETWORK, "no route")
    try:
        all_jobs = [job for number in range(1, 25) if (job := mixed.job(number))]
        of_folder = [job for job in all_jobs if folder in (None, job.folder)]
        wanted = [job for job in of_folder if not states or job.shown_state in states]
        if not states:
            wanted = [job for job in wanted if job.finished is None]
        assert mixed.jobs(states, folder) == wanted
        counts = mixed.counts(folder)
        assert counts == {state: sum(job.shown_state is state for job in of_folder) for state in State}
    finally:
        mixed.lift(Reason.NETWORK)
        with mixed._tables.transaction():
            mixed._tables.execute("DELETE FROM pauses")
        for name in missing:
            mixed.root_back(name)


def test_an_empty_table_has_nothing(tmp_path: Path) -> None:
    """Every question has an answer before there is anything."""
    queue = open_queue(tmp_path, ManualClock())
    assert (queue.jobs(), queue.history(), queue.running(), queue.endings()) == ([], [], [], [])
    assert not any(queue.counts().values())
    assert queue.job(1) is None
    assert queue.prune() == 0
    queue.close()
