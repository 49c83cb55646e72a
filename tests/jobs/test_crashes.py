"""kill -9 in the middle of a busy queue, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from chunkyd.clock import SystemClock
from chunkyd.jobs.opening import open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import State
from tests.jobs.shared import URL, check_table, open_queue

ROOT = Path(__file__).parents[2]
ROUNDS = 5


def told_until_killed(folder: Path, run: int, seed: int, lines: int) -> list[list[str]]:
    """What the busy program had told when it was killed after so many lines."""
    command = [sys.executable, "-m", "tests.jobs.busy", str(folder), str(run), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if len(told) == lines:
                process.kill()
    assert len(told) >= lines, "it ended by itself"
    return [line.split() for line in told if line.endswith("\n")]


def check_told(queue: Queue, told: list[list[str]]) -> None:
    """What was told before the kill is there after it."""
    rows = queue._tables.rows
    sessions = {row[0] for row in rows("SELECT session_id FROM jobs UNION SELECT session_id FROM endings")}
    versions = {(row[0].decode(), row[1]) for row in rows("SELECT CAST(name AS BLOB), mtime_ns FROM jobs")}
    for words in told:
        match words:
            case ["offered", path, number]:
                assert (path.rpartition("/")[2], int(number)) in versions, "a queued version was lost"
            case ["opened", session]:
                assert session in sessions, "a session was lost: neither resumed nor ended"
            case ["arrived", job_id]:
                job = queue.job(int(job_id))
                assert job is not None
                assert job.arrived is not None, "an arrival was lost: it would be sent again"
            case ["done", job_id]:
                done = queue.job(int(job_id))
                assert done is not None
                assert done.state is State.DONE


def test_nothing_told_is_lost_by_a_kill(tmp_path: Path) -> None:
    """Killed at any moment, the table is whole, its invariants hold after recovery, and what was recorded is there."""
    seed = random.randrange(2**31)
    chance = random.Random(seed)
    for run in range(ROUNDS):
        told = told_until_killed(tmp_path, run, seed + 100 * run, chance.randrange(20, 400))
        opened = open_tables(str(tmp_path / "jobs.sqlite3"), SystemClock())
        assert opened.moved_aside is None, f"damaged; seed {seed}"
        opened.tables.close()
        queue = open_queue(tmp_path, SystemClock())
        queue.recover("checker")
        queue.resume_user()
        check_table(queue)
        check_told(queue, told)
        queue.close()


def test_after_the_last_crash_everything_ends(tmp_path: Path) -> None:
    """What a crash left can all be carried to an end: nothing is stuck behind something that no longer runs."""
    told_until_killed(tmp_path, 0, random.randrange(2**31), 200)
    queue = open_queue(tmp_path, SystemClock())
    queue.recover("checker")
    queue.resume_user()
    while (job := queue.claim("checker", ["films"])) is not None:
        queue.finishing(job, URL)
        assert queue.done(job, job.fingerprint)
    assert {job.state for job in queue.jobs()} <= {State.FAILED}
    check_table(queue)
    queue.close()
