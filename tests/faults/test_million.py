"""`make million`: a job table with a million rows under the real daemon; files go on arriving while it is pruned."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkyd.clock import SystemClock
from chunkyd.control.client import ControlClient
from chunkyd.jobs.opening import open_tables
from tests.e2e.programs import Daemon, Server, running, sha256, wait_until

pytestmark = pytest.mark.long

ROWS = 1_000_000
WAITING = 100_000
OLD = 300_000  # of the done ones, so long ago that they go from the history
_MONTHS_AGO = 120 * 86400
_FILL = """
    WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
    INSERT INTO jobs (folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, user_paused, created,
        updated, finished, finish_number)
    SELECT CAST(?3 AS BLOB), CAST('d' || number / 100 AS BLOB), CAST('n' || number AS BLOB), 1, 7, 1000, 1, 1,
        iif(number <= ?2, 'queued', 'done'), number <= ?2, ?4, ?4,
        iif(number <= ?2, NULL, iif(number <= ?2 + ?5, ?4 - ?6, ?4)), iif(number <= ?2, NULL, number)
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
        tables.execute(_FILL, (ROWS, WAITING, "outbox", time.time(), OLD, _MONTHS_AGO))
        tables.execute(_KNOW, (time.time(),))
        tables.execute(_COUNT)
        tables.execute(trigger[0])
    tables.close()


def _peak(pid: int) -> int:
    """Bytes of memory it has had at most."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _rescan_until(enough: threading.Event, daemon: Daemon) -> int:
    """One rescan after the other; how many."""
    scans = 0
    while not enough.is_set():
        daemon.ctl("rescan", "outbox", "--wait")
        scans += 1
    return scans


def test_a_million_rows_under_the_daemon(tmp_path: Path) -> None:
    """It starts, shows, rescans, prunes, and sends what is new meanwhile, in flat memory; so after a restart."""
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(outbox)}])
    _fill(daemon)
    sent = 0

    def counts() -> dict[str, int]:
        return ControlClient(str(daemon.socket)).status().jobs

    def send() -> float:
        """One more file; seconds until it has arrived."""
        nonlocal sent
        sent += 1
        file = outbox / f"file{sent}"
        file.write_bytes(os.urandom(3_000_000))
        began = time.monotonic()
        published = server.files() / "outbox" / file.name
        wait_until("it arrives", published.exists, 60, daemon.text)
        seconds = time.monotonic() - began
        assert sha256(published) == sha256(file)
        return seconds

    with running(server):
        began = time.monotonic()
        with running(daemon):
            print(f"answers {time.monotonic() - began:.1f} s after its start")
            send()
            assert counts()["paused"] == WAITING
            assert counts()["done"] >= ROWS - WAITING - OLD
            assert len(daemon.ctl("list", "--limit", "100")["jobs"]) == 100
            with ThreadPoolExecutor(1) as beside:
                enough = threading.Event()
                scans = beside.submit(_rescan_until, enough, daemon)
                seconds = send()
                enough.set()
                print(f"beside {scans.result()} rescans a file takes {seconds:.1f} s")
            slowest, until = 0.0, time.monotonic() + 180  # the first prune is a minute after the start
            while "old jobs are dropped from the history" not in daemon.text():
                assert time.monotonic() < until, daemon.text()[-2000:]
                slowest = max(slowest, send())
            print(f"up to and during the prune a file takes {slowest:.1f} s at most; {_peak(daemon.pid) >> 20} MiB")
            assert _peak(daemon.pid) < 100 << 20
        with running(daemon):
            send()
            done = ROWS - WAITING - OLD + sent
            wait_until("all is done", lambda: counts()["done"] == done, 30, daemon.text)
            assert counts()["paused"] == WAITING
            assert _peak(daemon.pid) < 100 << 20
            daemon.settings["server"]["url"] = server.url.replace("127.0.0.1", "localhost")
            daemon.write_config()
            began = time.monotonic()
            daemon.ctl("reload")
            print(f"another server is taken up in {time.monotonic() - began:.1f} s; {_peak(daemon.pid) >> 20} MiB")
            wait_until("all is offered", lambda: counts()["done"] == done + sent, 60, daemon.text)
            assert _peak(daemon.pid) < 100 << 20
