"""Opening the job table: checked, migrated, moved aside where it is broken; and for reading only.

A broken table costs no file: a scan finds what is to be sent, and the server knows what it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError, StateError, Unreachable
from chunkyd.files import fsync_directory, make_durable_folder
from chunkyd.jobs.migrations import MIGRATIONS, migrate, refuse_newer, version_of
from chunkyd.jobs.tables import Tables, translated
from chunkyd.mounts import refuse_network
from chunkyd.threads import begun_pool

JOB_TABLE = "jobs.sqlite3"  # in the state folder

_LOG = logging.getLogger("chunkyd.jobs")
_COMPANIONS = ("", "-wal", "-shm")
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Opened(msgspec.Struct, frozen=True):
    """The table, and what became of a broken one and of one with an older schema: the paths they were kept under."""

    tables: Tables
    moved_aside: str | None = None
    copied: str | None = None


def begin_check(path: str) -> Future[bool]:
    """Make the table's folder, and begin to look, in a thread, whether the table is whole; for its one owner.

    A million jobs take half a second, on another core than the one that loads the rest of the daemon meanwhile. Nobody
    else may have the table before that is over: the check may bring a log home, under the table's name.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    with _accessible(path):
        make_durable_folder(folder)
        refuse_network("the state folder", folder, "set state_dir to a local disk")
    executor = begun_pool(1, "job-table-check")
    check = executor.submit(_sound, path)
    executor.shutdown(wait=False)
    return check


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
    with _accessible(path):
        aside = None if check.result() else _move_aside(path, clock.wall())
        _make_private(path)
        reached("jobs.file.made")
    tables = Tables(path)
    try:
        with translated(path), _accessible(path):
            copied = migrate(tables.connection(), path, migrations)
    except BaseException:
        tables.close()
        raise
    return Opened(tables, aside, copied)


def open_readonly(path: str) -> Tables:
    """The job table for reading, with or without a daemon; Unreachable (69) says why it cannot be read."""
    if not os.path.exists(path):
        raise Unreachable(f"there is no job table at {path}", mend="start chunkyd, or look at state_dir")
    log_left = _size(path + "-wal") > 0
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


@contextlib.contextmanager
def _accessible(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(
            f"the job table {path} cannot be used: {error.strerror}",
            mend="make its folder writable for this user, or set state_dir",
        ) from error


def _sound(path: str) -> bool:
    """Whether the file is a whole database; one that is not there, or empty, is as good as new."""
    if _size(path) == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            return False
        raise StateError(f"{path} cannot be used: {error}", mend="see that it may be read and written") from error


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


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
