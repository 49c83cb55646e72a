"""Opening a catalog: made where it is missing, migrated where it is older, refused where it is newer.

A damaged one is moved aside, loudly, by the process that owns the data folder, and by no other: a command beside a
running server must never take the server's catalog away. Users and tokens are saved from it as far as they can be
read; the records of files come back from the published files themselves; sessions are lost, and begin again.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Sequence

from chunkyd.catalog.database import CatalogDatabase, Row, primary_code
from chunkyd.catalog.schema import MIGRATIONS
from chunkyd.checkpoints import reached
from chunkyd.errors import StateError
from chunkyd.files import disk_full_is_storage_full, fsync_directory

_log = logging.getLogger("chunkyd.catalog")
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def make_file(path: str) -> None:
    """Make the file, for the owner's eyes only (SQLite gives its log the same mode), durable as a folder entry."""
    with disk_full_is_storage_full(f"no room for the catalog {path}"), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        reached("catalog.file.made")
        fsync_directory(os.path.dirname(path) or ".")


def is_damaged(path: str) -> bool:
    """Whether SQLite finds the file, or what is in it, torn; other failures are not the file's."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
        except sqlite3.DatabaseError as error:
            return primary_code(error) in _DAMAGED


def move_aside(path: str) -> str:
    """Keep the damaged file under another name, with its log; that name."""
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    while os.path.lexists(aside):
        aside += "~"
    for ending in ("-wal", "-shm", ""):  # the file last: a crash in between finds it, and does it again
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + ending, aside + ending)
            reached("catalog.damaged.moving")
    fsync_directory(os.path.dirname(path) or ".")
    reached("catalog.damaged.moved")
    _log.error(
        "the catalog %s was damaged and is now %s: a new one is made; unfinished uploads begin again", path, aside
    )
    return aside


def last_aside(path: str) -> str | None:
    """The damaged file a new catalog replaces: moved aside just now, or by a start that was cut short after it."""
    found = [name for name in glob.glob(f"{glob.escape(path)}.damaged-*") if not name.endswith(("-wal", "-shm"))]
    return max(found, default=None)


def _save_users(damaged: str, database: CatalogDatabase) -> None:
    """Take over users and tokens, as far as the damaged file still gives them; in the transaction under way."""
    saved = 0
    for table, columns in (("user", "name, created"), ("token", "token_id, user, digest, created, note")):
        rows = _readable(damaged, f"SELECT {columns} FROM {table}")
        marks = ", ".join("?" * len(columns.split(",")))
        for row in rows:
            statement = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # torn rows too
            saved += database.change(statement, *row)
    _log.error("%d users and tokens were saved from the damaged catalog; check them with `chunky-server user`", saved)


def _readable(damaged: str, statement: str) -> list[Row]:
    rows: list[Row] = []
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(damaged)) as connection:
        for row in connection.execute(statement):
            rows.append(row)  # what comes before the damage counts
    return rows


def migrate(database: CatalogDatabase, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the tables to this program's version; a backup is made first, of a file that holds something.

    All in one transaction, the tables of a new catalog and what is saved of a damaged one too: no crash leaves half
    of it, and of processes that open the catalog at once one does it and the others find it done.
    """
    if _version(database, migrations) == len(migrations):
        return
    with database.writing():
        version = _version(database, migrations)
        if version == len(migrations):
            return
        if version > 0:
            _back_up(database.path, version)
        for statement in itertools.chain.from_iterable(migrations[version:]):
            database.change(statement)
        if version == 0 and (damaged := last_aside(database.path)) is not None:
            _save_users(damaged, database)
        database.change(f"PRAGMA user_version = {len(migrations)}")
        reached("catalog.migration.committing")


def _version(database: CatalogDatabase, migrations: Sequence[Sequence[str]]) -> int:
    row = database.row("PRAGMA user_version")
    version = int(row[0]) if row is not None else 0
    if version > len(migrations):
        raise StateError(
            f"the catalog {database.path} has version {version}; this program knows {len(migrations)}",
            mend="install the newer chunky-server again, or restore the backup beside the catalog",
        )
    return version


def _back_up(path: str, version: int) -> None:
    """Inside the migration's transaction, so one process at a time: another connection sees what was before it."""
    backup = f"{path}.version-{version}"
    temporary = f"{backup}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    make_file(temporary)
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as reader:
        reader.execute("VACUUM INTO ?", (temporary,))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    reached("catalog.backup.synced")
    os.replace(temporary, backup)
    fsync_directory(os.path.dirname(backup) or ".")
    reached("catalog.backup.made")
