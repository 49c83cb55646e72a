"""A file is closed: how long until it is queued, beyond the folder's settle time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.harness import ended_within
from benchmarks.rows import Findings, at_most, row
from chunkyd.jobs.opening import open_readonly
from tests.e2e.programs import Daemon, wait_until

TITLE = "From closed to queued"
ABOUT = "Files of 64 KiB written and closed in a watched folder with `settle: 1s`; when their jobs were recorded."
SETTLE_SECONDS = 1.0
BEYOND_SECONDS = 0.1


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """Ten files for each pair, one after the other and 50 ms apart; a few when quick."""
    outbox = work / "outbox"
    outbox.mkdir()
    daemon = Daemon(work, "http://127.0.0.1:9", [{"path": str(outbox), "settle": "1s"}])
    number = 3 if quick else 10 * pairs
    try:
        daemon.start()
        wait_until("the folder is watched", lambda: daemon.ctl("status")["folders"][0]["lastScan"], 30, daemon.text)
        closed = {}
        for each in range(number):
            name = f"file{each}".encode()
            (outbox / name.decode()).write_bytes(os.urandom(65536))
            closed[name] = time.time()
            time.sleep(0.05)
        queued = _queued(daemon, number)
    finally:
        ended_within(daemon, 30)
    beyond = [queued[name] - moment - SETTLE_SECONDS for name, moment in closed.items()]
    return Findings(
        rows=(
            row("beyond the settle time, median", "s", beyond, goal=at_most(BEYOND_SECONDS)),
            row("beyond the settle time, slowest", "s", [max(beyond)], goal=at_most(BEYOND_SECONDS)),
        )
    )


def _queued(daemon: Daemon, number: int) -> dict[bytes, float]:
    """When each job was recorded, in wall time, by the daemon's own record."""
    tables = open_readonly(str(daemon.state / "jobs.sqlite3"))
    try:
        rows = "SELECT name, created FROM jobs"
        wait_until("all are queued", lambda: len(tables.rows(rows)) == number, 60, daemon.text)
        return {bytes(name): float(created) for name, created in tables.rows(rows)}
    finally:
        tables.close()
