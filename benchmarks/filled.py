"""Job tables with many rows, filled in one go: what a daemon has after years."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chunkyd.clock import SystemClock
from chunkyd.files import fingerprint, fingerprint_columns
from chunkyd.jobs.opening import open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.tables import Tables

_FILL = """
    WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
    INSERT INTO jobs (folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, created, updated,
        finished, finish_number)
    SELECT CAST(?3 AS BLOB), CAST('d' || number / 100 AS BLOB), CAST('n' || number AS BLOB), 1, 7, 1000, 1, 1,
        iif(number <= ?2, 'queued', 'done'), ?4, ?4, iif(number <= ?2, NULL, ?4), iif(number <= ?2, NULL, number)
    FROM numbers
"""
_KNOW_DONE = """
    INSERT INTO known SELECT folder, directory, name, device, inode, size, mtime_ns, ctime_ns, NULL, 1, ?1 FROM jobs
    WHERE state = 'done'
"""
_COUNT = "INSERT INTO counts SELECT folder, state, user_paused, count(*) FROM jobs GROUP BY 1, 2, 3"
_KNOW = "INSERT INTO known VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, 1, ?)"


def open_state(folder: Path) -> Tables:
    """The job table of a daemon with this state folder, made where there is none."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return open_tables(str(folder / "jobs.sqlite3"), SystemClock()).tables


def queue_of(tables: Tables) -> Queue:
    """The queue over a table, as the daemon has it."""
    return Queue(tables, SystemClock())


def fill(tables: Tables, folder: str, rows: int, waiting: int) -> None:
    """So many jobs of a watched folder: some queued, the others done, and known as sent."""
    now = time.time()
    with tables.transaction(durable=True):
        (trigger,) = tables.rows("SELECT sql FROM sqlite_master WHERE name = 'jobs_inserted'")
        tables.execute("DROP TRIGGER jobs_inserted")  # filled in one go, counted in one go
        tables.execute(_FILL, (rows, waiting, folder, now))
        tables.execute(_KNOW_DONE, (now,))
        tables.execute(_COUNT)
        tables.execute(trigger[0])


def know_tree(tables: Tables, folder: str, root: Path) -> None:
    """Record every file below a watched folder as sent, in its present version."""
    now, top = time.time(), os.fsencode(root)
    with tables.transaction(durable=True):
        for directory, _, names in os.walk(top):
            below = os.path.relpath(directory, top)
            for name in names:
                found = fingerprint(os.lstat(os.path.join(directory, name)))
                place = (folder.encode(), b"" if below == b"." else below, name)
                tables.execute(_KNOW, (*place, *fingerprint_columns(found), now))
