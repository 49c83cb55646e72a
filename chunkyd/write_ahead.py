"""A write-ahead log for a SQLite file that several processes may open at the same moment."""

from __future__ import annotations

import sqlite3
import time

_LOOK_AGAIN_SECONDS = 0.01


def begin_log(connection: sqlite3.Connection, patience_seconds: float) -> None:
    """Have a write-ahead log; sqlite3.OperationalError as SQLite has it, and where the file is busy for too long.

    SQLite's own patience does not cover this: of two who begin a new file one fails at once.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_AGAIN_SECONDS)
