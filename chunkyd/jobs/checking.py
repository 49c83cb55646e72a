"""Whether the job table is whole: looked at in a thread, from the first moment, and so without what reads it later."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future

from chunkyd.errors import StateError
from chunkyd.files import make_durable_folder
from chunkyd.mounts import refuse_network
from chunkyd.threads import begun_pool

JOB_TABLE = "jobs.sqlite3"  # in the state folder

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def begin_check(path: str) -> Future[bool]:
    """Make the table's folder, and begin to look, in a thread, whether the table is whole; for its one owner.

    A million jobs take half a second, on another core than the one that loads the rest of the daemon meanwhile. Nobody
    else may have the table before that is over: the check may bring a log home, under the table's name.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    with accessible(path):
        make_durable_folder(folder)
        refuse_network("the state folder", folder, "set state_dir to a local disk")
    executor = begun_pool(1, "job-table-check")
    check = executor.submit(_sound, path)
    executor.shutdown(wait=False)
    return check


@contextlib.contextmanager
def accessible(path: str) -> Iterator[None]:
    """Around what touches the table's files: StateError where they cannot be used."""
    try:
        yield
    except OSError as error:
        raise StateError(
            f"the job table {path} cannot be used: {error.strerror}",
            mend="make its folder writable for this user, or set state_dir",
        ) from error


def _sound(path: str) -> bool:
    """Whether the file is a whole database; one that is not there, or empty, is as good as new."""
    if size_of(path) == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            return False
        raise StateError(f"{path} cannot be used: {error}", mend="see that it may be read and written") from error


def size_of(path: str) -> int:
    """Bytes of a file; none where it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
