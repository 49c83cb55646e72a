"""`make million`: a job table with a million rows under the real daemon, and files that go on arriving."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chunkyd.clock import SystemClock
from chunkyd.jobs.opening import open_tables
from tests.e2e.programs import Daemon, Server, running, sha256, wait_until

pytestmark = pytest.mark.long

ROWS = 1_000_000
WAITING = 100_000
_FILL = """
    WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
    INSERT INTO jobs (folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, user_paused, created,
        updated, finished, finish_number)
    SELECT CAST(?3 AS BLOB), CAST('d' || number / 100 AS BLOB), CAST('n' || number AS BLOB), 1, 7, 1000, 1, 1,
        iif(number <= ?2, 'queued', 'done'), number <= ?2, ?4, ?4,
        iif(number <= ?2, NULL, ?4), iif(number <= ?2, NULL, number)
    FROM numbers
"""
_KNOW = """
    INSERT INTO known SELECT folder, directory, name, device, inode, size, mtime_ns, ctime_ns, NULL, 1, ?1 FROM jobs
    WHERE state = 'done'
"""
_COUNT = "INSERT INTO counts SELECT folder, state, user_paused, count(*) FROM jobs GROUP BY 1, 2, 3"


def _fill(daemon: Daemon) -> None:
    """A million jobs: a tenth of them paused by the user, the others done, and known as sent."""
    daemon.state.mkdir(mode=0o700)
    tables = open_tables(str(daemon.state / "jobs.sqlite3"), SystemClock()).tables
    with tables.transaction(durable=True):
        (trigger,) = tables.rows("SELECT sql FROM sqlite_master WHERE name = 'jobs_inserted'")
        tables.execute("DROP TRIGGER jobs_inserted")  # filled in one go, counted in one go
        tables.execute(_FILL, (ROWS, WAITING, "outbox", time.time()))
        tables.execute(_KNOW, (time.time(),))
        tables.execute(_COUNT)
        tables.execute(trigger[0])
    tables.close()


def _resident(pid: int) -> int:
    """Bytes of memory."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def test_a_million_rows_under_the_daemon(tmp_path: Path) -> None:
    """It starts, shows, sends what is new, and stays below 100 MiB; so after a restart."""
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(outbox)}])
    _fill(daemon)
    with running(server):
        for run in range(2):
            with running(daemon):
                file = outbox / f"file{run}"
                file.write_bytes(os.urandom(3_000_000))
                published = server.files() / "outbox" / file.name
                wait_until("it arrives", published.exists, 60, daemon.text)
                assert sha256(published) == sha256(file)
                counts = daemon.ctl("status")["jobs"]
                assert counts["paused"] == WAITING and counts["done"] >= ROWS - WAITING
                assert len(daemon.ctl("list", "--limit", "100")["jobs"]) == 100
                daemon.ctl("rescan", "outbox", "--wait")
                assert _resident(daemon.pid) < 100 << 20
