"""Opening the job table: checked, migrated, moved aside where it is broken; and for reading only.

A broken table costs no file: a scan finds what is to be sent, and the server knows what it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError, StateError, Unreachable
from chunkyd.files import fsync_directory
from chunkyd.jobs.checking import accessible, begin_check, size_of
from chunkyd.jobs.migrations import MIGRATIONS, migrate, refuse_newer, version_of
from chunkyd.jobs.tables import Tables, translated

_LOG = logging.getLogger("chunkyd.jobs")
_COMPANIONS = ("", "-wal", "-shm")


class Opened(msgspec.Struct, frozen=True):
    """The table, and what became of a broken one and of one with an older schema: the paths they were kept under."""

    tables: Tables
    moved_aside: str | None = None
    copied: str | None = None


def open_tables(
    path: str,
    clock: Clock,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
    check: Future[bool] | None = None,
) -> Opened:
    """Open or make the job table at `path`, when it has been checked, now or by the `check` begun before.

    Raises StateError (newer, on a network file system, not accessible).
    """
    path = os.path.abspath(path)
    check = check or begin_check(path)
    with accessible(path):
        aside = None if check.result() else _move_aside(path, clock.wall())
        _make_private(path)
        reached("jobs.file.made")
    tables = Tables(path)
    try:
        with translated(path), accessible(path):
            copied = migrate(tables.connection(), path, migrations)
    except BaseException:
        tables.close()
        raise
    return Opened(tables, aside, copied)


def open_readonly(path: str) -> Tables:
    """The job table for reading, with or without a daemon; Unreachable (69) says why it cannot be read."""
    if not os.path.exists(path):
        raise Unreachable(f"there is no job table at {path}", mend="start chunkyd, or look at state_dir")
    log_left = size_of(path + "-wal") > 0
    tables = Tables(path, read_only=True, immutable=not log_left)
    try:
        version = version_of(tables.connection())
        refuse_newer(version, path)
        if version < len(MIGRATIONS):
            raise StateError(f"{path} was written by an older version of chunkyd", mend="start chunkyd once")
        tables.rows("SELECT 1 FROM jobs LIMIT 1")
    except (ChunkyError, sqlite3.Error) as error:
        tables.close()
        what = error.what if isinstance(error, ChunkyError) else f"{path} cannot be read: {error}"
        mend = "start chunkyd, or read it as its owner" if log_left else "you need read access to the state folder"
        raise Unreachable(what, mend=mend) from error
    return tables


def _move_aside(path: str, now: float) -> str:
    """Give the broken file, with its log, a dated name that nothing has; whoever wants may look into it later."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = f"{path}.broken-{stamp}", 1
    while any(os.path.lexists(aside + companion) for companion in _COMPANIONS):
        aside, number = f"{path}.broken-{stamp}-{number}", number + 1
    for companion in reversed(_COMPANIONS):  # the database last: a crash in between must not pair it with a new log
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + companion, aside + companion)
            reached("jobs.damaged.moving")
    fsync_directory(os.path.dirname(path))
    reached("jobs.damaged.moved")
    _LOG.error(
        "the job table %s was damaged and is now %s; a new one is made. Files are found again by scanning; "
        "history, pauses and cancelled jobs start anew",
        path,
        aside,
    )
    return aside


def broken_tables(path: str) -> list[str]:
    """What was moved aside and still lies beside the job table: until somebody has looked at it and removed it."""
    folder, name = os.path.split(path)
    try:
        found = os.listdir(folder)
    except OSError:
        return []
    aside = [each for each in found if each.startswith(f"{name}.broken-") and not each.endswith(_COMPANIONS[1:])]
    return [os.path.join(folder, each) for each in sorted(aside)]


def _make_private(path: str) -> None:
    """Session IDs are keys: nobody else reads them, not even for the moment before a chmod."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
