"""What the tests of the queue share: a queue over a real file, short names for its inputs, and its invariants."""

from __future__ import annotations

import os
from pathlib import Path

from chunkyd.clock import Clock
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Change, Job
from chunkyd.jobs.opening import open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.settings import Retry

RUN = "this-run"
URL = "http://127.0.0.1:1"
HASH = "ab" * 32
RETRY = Retry(attempts=3, base=1.0, max=60.0)


def version(number: int, size: int = 1000) -> Fingerprint:
    """The fingerprint of a version: another number, another version."""
    return Fingerprint(device=1, inode=7, size=size, mtime_ns=number, ctime_ns=number)


def change(path: bytes, number: int = 1, folder: str = "films", priority: int = 0) -> Change:
    """A version of a file, settled."""
    return Change(folder, path, version(number), priority)


def open_queue(directory: Path, clock: Clock) -> Queue:
    """The queue in this state folder, which sends to URL; jitter is always half."""
    tables = open_tables(os.path.join(directory, "jobs.sqlite3"), clock).tables
    queue = Queue(tables, clock, RETRY, random=lambda: 0.5)
    queue.send_to(URL)
    return queue


def claim(queue: Queue, *folders: str) -> Job:
    """The next job, which there must be."""
    job = queue.claim(RUN, folders or ("films",))
    assert job is not None
    return job


def now(queue: Queue, job: Job) -> Job:
    """The job as it is now."""
    found = queue.job(job.id)
    assert found is not None
    return found


def arrive(queue: Queue, job: Job) -> None:
    """Take a claimed job to its end."""
    assert queue.opened(job, f"session-{job.id}", URL, HASH)
    assert queue.finishing(job, URL)
    assert queue.done(job, job.fingerprint)


def check_table(queue: Queue) -> None:
    """What must hold after whatever happened."""
    rows = queue._tables.rows
    assert not rows(
        "SELECT folder, directory, name FROM jobs WHERE finished IS NULL AND arrived IS NULL"
        " GROUP BY folder, directory, name HAVING count(*) > 1"
    ), "two open jobs for one path"
    assert not rows(
        "SELECT id FROM jobs WHERE claimed_by IS NULL AND state IN ('hashing', 'uploading', 'finishing')"
    ), "a running job that nobody runs"
    assert not rows(
        "SELECT id FROM jobs WHERE (finished IS NOT NULL) != (state IN ('done', 'cancelled', 'superseded'))"
    ), "finished and state disagree"
    assert not rows("SELECT id FROM jobs WHERE (finished IS NULL) != (finish_number IS NULL)"), "unnumbered end"
    assert not rows(
        "SELECT id FROM jobs AS waiting WHERE blocked_by IS NOT NULL AND NOT EXISTS (SELECT 1 FROM jobs WHERE"
        " id = waiting.blocked_by AND (claimed_by IS NOT NULL OR finished IS NULL AND state != 'failed'))"
    ), "blocked by nothing"
    assert not rows("SELECT id FROM jobs WHERE next_attempt IS NOT NULL AND state NOT IN ('waiting', 'paused')"), (
        "a deadline that means nothing"
    )
    assert not rows(
        "SELECT session_id FROM jobs WHERE state IN ('cancelled', 'superseded') AND session_id IS NOT NULL"
        " AND session_id NOT IN (SELECT session_id FROM endings)"
    ), "a session that nobody ends"
    counted = {row[:3]: row[3] for row in rows("SELECT * FROM counts") if row[3]}
    truth = {row[:3]: row[3] for row in rows("SELECT folder, state, user_paused, count(*) FROM jobs GROUP BY 1, 2, 3")}
    assert counted == truth, "the counts are wrong"
