"""The schema, as the steps that made it. A step that was released is never changed; a new one is added.

Each step is one transaction that also sets `user_version`; before an existing table is changed it is copied. A table
written by a newer version is refused. Three things the schema keeps by itself, whoever changes a row: the counts by
state, the number in the order of the history, and the end of a wait for an older job.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence

from chunkyd.checkpoints import reached
from chunkyd.errors import StateError
from chunkyd.files import fsync_directory

_FIRST = (
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        folder BLOB NOT NULL, directory BLOB NOT NULL, name BLOB NOT NULL,
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
        state TEXT NOT NULL, reason TEXT, error TEXT,
        user_paused INTEGER NOT NULL DEFAULT 0, priority INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, restarts INTEGER NOT NULL DEFAULT 0, probes INTEGER NOT NULL DEFAULT 0,
        next_attempt REAL,
        bytes_done INTEGER NOT NULL DEFAULT 0, bytes_most INTEGER NOT NULL DEFAULT 0,
        bytes_sent INTEGER NOT NULL DEFAULT 0,
        file_hash TEXT, session_id TEXT, session_url TEXT,
        resumed_times INTEGER NOT NULL DEFAULT 0, resumed_from INTEGER,
        claimed_by TEXT, claims INTEGER NOT NULL DEFAULT 0, blocked_by INTEGER,
        arrived REAL, created REAL NOT NULL, updated REAL NOT NULL, finished REAL, finish_number INTEGER
    )""",
    # One open row for each path, beside one that has arrived and only has to be finished.
    """CREATE UNIQUE INDEX jobs_path ON jobs (folder, directory, name, ifnull(arrived, 0)) WHERE finished IS NULL""",
    """CREATE INDEX jobs_ready ON jobs (folder, priority DESC, id)
        WHERE state = 'queued' AND user_paused = 0 AND blocked_by IS NULL""",
    """CREATE INDEX jobs_open ON jobs (id) WHERE finished IS NULL""",
    """CREATE INDEX jobs_open_folder ON jobs (folder, id) WHERE finished IS NULL""",
    """CREATE INDEX jobs_open_state ON jobs (state, id) WHERE finished IS NULL""",
    """CREATE INDEX jobs_user_paused ON jobs (id) WHERE finished IS NULL AND user_paused = 1""",
    """CREATE INDEX jobs_due ON jobs (next_attempt) WHERE next_attempt IS NOT NULL""",
    """CREATE INDEX jobs_claimed ON jobs (id) WHERE claimed_by IS NOT NULL""",
    """CREATE INDEX jobs_blocked ON jobs (blocked_by) WHERE blocked_by IS NOT NULL""",
    """CREATE INDEX jobs_history ON jobs (finish_number) WHERE finished IS NOT NULL""",
    """CREATE INDEX jobs_history_folder ON jobs (folder, finish_number) WHERE finished IS NOT NULL""",
    # Versions that are not queued again: sent, or cancelled by the user.
    """CREATE TABLE known (
        folder BLOB NOT NULL, directory BLOB NOT NULL, name BLOB NOT NULL,
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
        file_hash TEXT, sent INTEGER NOT NULL, finished REAL NOT NULL,
        PRIMARY KEY (folder, directory, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE endings (
        url TEXT NOT NULL, session_id TEXT NOT NULL, file_hash TEXT NOT NULL, PRIMARY KEY (url, session_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE pauses (folder BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID""",
    """CREATE TABLE counts (
        folder BLOB NOT NULL, state TEXT NOT NULL, user_paused INTEGER NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (folder, state, user_paused)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN
        INSERT INTO counts VALUES (NEW.folder, NEW.state, NEW.user_paused, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END""",
    """CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
        UPDATE counts SET number = number - 1
            WHERE folder = OLD.folder AND state = OLD.state AND user_paused = OLD.user_paused;
    END""",
    """CREATE TRIGGER jobs_counted AFTER UPDATE OF state, user_paused ON jobs
        WHEN OLD.state != NEW.state OR OLD.user_paused != NEW.user_paused BEGIN
        UPDATE counts SET number = number - 1
            WHERE folder = OLD.folder AND state = OLD.state AND user_paused = OLD.user_paused;
        INSERT INTO counts VALUES (NEW.folder, NEW.state, NEW.user_paused, 1)
            ON CONFLICT DO UPDATE SET number = number + 1;
    END""",
    """CREATE TRIGGER jobs_finished AFTER UPDATE OF finished ON jobs
        WHEN OLD.finished IS NULL AND NEW.finished IS NOT NULL BEGIN
        UPDATE jobs SET finish_number =
            (SELECT ifnull(max(finish_number), 0) + 1 FROM jobs WHERE finished IS NOT NULL)
            WHERE id = NEW.id;
    END""",
    # Looked at anew by the next claim: what it waited for has ended, or has stopped running.
    """CREATE TRIGGER jobs_unblocked AFTER UPDATE OF state, finished, claimed_by ON jobs
        WHEN NEW.claimed_by IS NULL
            AND (OLD.claimed_by IS NOT NULL OR NEW.finished IS NOT NULL OR NEW.state = 'failed') BEGIN
        UPDATE jobs SET blocked_by = NULL WHERE blocked_by = NEW.id;
    END""",
)

# Whose numbers the jobs' are: the server compares those of one table only.
_IDENTITY = (
    "CREATE TABLE identity (id TEXT NOT NULL)",
    "INSERT INTO identity VALUES (lower(hex(randomblob(16))))",
)

# What stands for the hash in a session that began without it; and the sizes of what was sent, of files that are big
# enough to begin so: one of the same size may be the same file.
_LATE_HASH = (
    "ALTER TABLE jobs ADD COLUMN session_version TEXT",
    "CREATE INDEX known_sizes ON known (size) WHERE sent = 1 AND size > 8388608",
)

# How far the hash of such a session's bytes is: a crash costs no second reading.
_HASH_PART = ("ALTER TABLE jobs ADD COLUMN hash_part TEXT",)

# To whom everything goes (NULL: an older version has not written it down), and at which server each job has arrived.
# What another one was sent may be there too: it is hashed first as well.
_DESTINATION = (
    "ALTER TABLE identity ADD COLUMN url TEXT",
    "ALTER TABLE jobs ADD COLUMN arrived_url TEXT",
    "DROP INDEX known_sizes",
    "CREATE INDEX known_sizes ON known (size) WHERE sent > 0 AND size > 8388608",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _IDENTITY, _LATE_HASH, _HASH_PART, _DESTINATION)


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def refuse_newer(version: int, path: str, newest: int = len(MIGRATIONS)) -> None:
    """A table written by a newer program may mean what this one does not understand."""
    if version > newest:
        raise StateError(
            f"{path} was written by a newer version of chunkyd (schema {version}, this one knows {newest})",
            mend="update chunkyd, or go back to the copy made before the update",
        )


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> str | None:
    """Bring the schema up to date; returns the path of the copy that was made first, if one was."""
    version = version_of(connection)
    refuse_newer(version, path, len(migrations))
    copy = _back_up(connection, path, version) if 0 < version < len(migrations) else None
    for number, statements in enumerate(migrations[version:], start=version + 1):
        _apply(connection, number, statements)
    return copy


def _apply(connection: sqlite3.Connection, number: int, statements: Sequence[str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        reached("jobs.migration.committing")
        connection.execute("COMMIT")
        reached("jobs.migration.committed")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _back_up(connection: sqlite3.Connection, path: str, version: int) -> str:
    """A whole and synced copy beside it; half a copy is never left under the name."""
    copy = f"{path}.before-{version + 1}"
    temporary = copy + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    with contextlib.closing(sqlite3.connect(temporary)) as target:
        os.chmod(temporary, 0o600)
        connection.backup(target)
    reached("jobs.backup.written")
    os.replace(temporary, copy)
    fsync_directory(os.path.dirname(copy))
    reached("jobs.backup.made")
    return copy
