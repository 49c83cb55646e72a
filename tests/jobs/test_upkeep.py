"""What keeps the table true when the configuration is another one, and small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from tests.e2e.conftest import small_disk  # noqa: F401  # a fixture
from tests.jobs.shared import HASH, URL, change, claim, now, open_queue


def test_sessions_at_a_server_that_was_left_are_forgotten(queue: Queue) -> None:
    """Endings at another URL than the configured one do not stay for ever; those at this one do until they are told."""
    for path, url in ((b"a", "http://left"), (b"b", URL)):
        queue.offer([change(path)])
        job = claim(queue)
        queue.opened(job, path.decode(), url, HASH)
        queue.finishing(job, URL)
    assert queue.forget_endings(URL) == 1
    assert [ending.session_id for ending in queue.endings()] == ["b"]


def test_a_new_priority_is_given_to_unfinished_jobs(queue: Queue) -> None:
    """The folder's jobs are claimed by the new priority, another folder's keep theirs."""
    queue.offer([change(b"a"), change(b"b", folder="sounds", priority=3)])
    assert queue.has_another_priority("films", 5)
    assert not queue.has_another_priority("sounds", 3)
    assert queue.set_priority("films", 5) == 1
    first = claim(queue, "films", "sounds")
    assert (first.folder, first.priority) == ("films", 5)
    assert queue.set_priority("films", 5) == 0
    assert now(queue, claim(queue, "films", "sounds")).priority == 3


def test_a_small_disk_is_enough(small_disk: Callable[[str], Path], clock: ManualClock) -> None:  # noqa: F811
    """The write-ahead log is brought home before it is as large as a small disk: what writes on never fills it."""
    queue = open_queue(small_disk("2m"), clock)
    queue.offer([change(b"a")])
    for number in range(1000):
        job = claim(queue)
        queue.progress(job, number, number)
        queue.release(job)
    queue.close()
