"""A million rows: every question the daemon asks is answered by an index, whatever the table's size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from tests.jobs.shared import HASH, RUN, URL, change, claim, open_queue, version

ROWS = 1_000_000
_FILL = """
    WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)
    INSERT INTO jobs (folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, created, updated,
        finished, finish_number)
    SELECT CAST('films' AS BLOB), CAST('d' || number / 100 AS BLOB), CAST('n' || number AS BLOB), 1, 7, 1000, 1, 1,
        iif(number % 2, 'queued', 'done'), 1, 1, iif(number % 2, NULL, 1), iif(number % 2, NULL, number)
    FROM numbers
"""
_KNOW = """
    INSERT INTO known SELECT folder, directory, name, device, inode, size, mtime_ns, ctime_ns, NULL, 1, 1 FROM jobs
    WHERE state = 'done'
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """Half of a million jobs queued, half done."""
    queue = open_queue(tmp_path_factory.mktemp("million"), ManualClock())
    with queue._tables.transaction():
        queue._tables.execute("DROP TRIGGER jobs_inserted")  # filled in one go, counted in one go
        queue._tables.execute(_FILL, (ROWS,))
        queue._tables.execute(_KNOW)
        queue._tables.execute(
            "INSERT INTO counts SELECT folder, state, user_paused, count(*) FROM jobs GROUP BY 1, 2, 3"
        )
    yield queue
    queue.close()


def worker(queue: Queue) -> None:
    """A job's whole way."""
    job = claim(queue)
    queue.hashed(job, HASH)
    queue.opened(job, f"s{job.id}", URL, HASH)
    queue.progress(job, 10, 10)
    queue.known_hash("films", job.path, job.fingerprint)
    queue.finishing(job, URL)
    queue.done(job, job.fingerprint)


def troubles(queue: Queue) -> None:
    """Every other end of a claim."""
    queue.wait(claim(queue), "reset")
    queue.pause(claim(queue), Reason.SERVER_FULL, "full")
    queue.fail(claim(queue), Reason.SOURCE, "no")
    queue.restart(claim(queue), "expired")
    queue.gone(claim(queue))
    job = claim(queue)
    queue.changed(job, version(2))
    queue.release(claim(queue))


QUESTIONS: dict[str, Callable[[Queue], object]] = {
    "offer": lambda queue: queue.offer([change(b"d1/n101"), change(b"d1/n101", 9), change(b"new")]),
    "versions": lambda queue: queue.versions("films", [b"d77"]),
    "versions ahead": lambda queue: queue.versions("films", [b"d%d" % number for number in range(60, 76)]),
    "a job's way": worker,
    "troubles": troubles,
    "unwanted": lambda queue: queue.unwanted(),
    "next_due": lambda queue: queue.next_due(),
    "running": lambda queue: queue.running(),
    "recover": lambda queue: queue.recover(RUN),
    "list": lambda queue: queue.jobs(limit=100, after=400_000),
    "list of a folder": lambda queue: queue.unfinished("films", after=400_000, limit=100),
    "list of failed": lambda queue: queue.jobs([State.FAILED], limit=100),
    "history": lambda queue: queue.history(100, after=400_000),
    "history of a folder": lambda queue: queue.history(100, after=400_000, folder="films"),
    "counts": lambda queue: queue.counts(),
    "counts of a folder": lambda queue: queue.counts("films"),
    "pause and resume everything": lambda queue: (queue.pause_user(), queue.resume_user()),
    "pause and resume a job": lambda queue: (queue.pause_user(ids=[777]), queue.resume_user(ids=[777])),
    "retry": lambda queue: queue.retry(),
    "cancel": lambda queue: queue.cancel([555]),
    "lift": lambda queue: queue.lift(Reason.NETWORK),
    "root_back": lambda queue: queue.root_back("films"),
    "a vanished file": lambda queue: queue.source_gone("films", b"d9/n901"),
    "a vanished directory": lambda queue: queue.source_gone("films", b"d8"),
    "endings": lambda queue: queue.endings(URL),
    "the same server": lambda queue: queue.send_to(URL),
    "prune nothing": lambda queue: queue.prune(keep_seconds=1e12),
}


def plans(queue: Queue, ask: Callable[[Queue], object]) -> list[tuple[str, str]]:
    """Every statement that `ask` runs, with SQLite's plan for each step of it."""
    connection = queue._tables.connection()
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        ask(queue)
    finally:
        connection.set_trace_callback(None)
    return [
        (statement, str(row[3]))
        for statement in statements
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement)
        for row in connection.execute("EXPLAIN QUERY PLAN " + statement)
    ]


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_looks_at_every_row(big: Queue, name: str) -> None:
    """No statement scans the jobs or the known versions, nor sorts them, except by an index that holds a few."""
    few = re.compile(r"SCAN jobs USING (COVERING )?INDEX jobs_(claimed|user_paused|blocked)\b")
    found = plans(big, QUESTIONS[name])
    assert found
    bad = [
        (plan, statement)
        for statement, plan in found
        if (plan.startswith("SCAN jobs") or plan.startswith("SCAN known")) and not few.match(plan)
    ]
    assert bad == []


def test_the_trap_works(big: Queue) -> None:
    """A question without an index is caught by the test above."""
    found = plans(big, lambda queue: queue._tables.rows("SELECT id FROM jobs WHERE file_hash = 'x'"))
    assert any(plan.startswith("SCAN jobs") for _, plan in found)


def test_work_does_not_grow_with_the_table(big: Queue) -> None:
    """A claim costs as many of SQLite's steps among a million rows as it does among a few."""

    def steps(queue: Queue) -> int:
        count = 0

        def one_more() -> int:
            nonlocal count
            count += 1
            return 0

        connection = queue._tables.connection()
        connection.set_progress_handler(one_more, 10)
        try:
            job = claim(queue)
        finally:
            connection.set_progress_handler(None, 10)
        queue.release(job)
        return count

    assert steps(big) < 100
