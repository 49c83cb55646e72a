"""The library's own memory: one SQLite file in the user's state folder, shared by any number of processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.errors import StateError, StorageFull
from chunkyd.files import (
    Column,
    Fingerprint,
    absolute,
    fingerprint_columns,
    fingerprint_of_columns,
    has_no_room,
    is_regular,
    make_durable_folder,
)
from chunkyd.protocol.late_hash import is_file_version
from chunkyd.protocol.messages import Bytes, SessionId
from chunkyd.upload.memory import Origin, Remembered, UploadKey
from chunkyd.write_ahead import begin_log

_PATIENCE_SECONDS = 30.0  # with other processes
_DURABLE = "PRAGMA synchronous = FULL"  # the last commit survives a power cut
_QUICK = "PRAGMA synchronous = NORMAL"  # it survives the end of the process
_FIRST = (
    """CREATE TABLE sessions (
        url TEXT NOT NULL, source BLOB NOT NULL, path BLOB NOT NULL,
        session_id TEXT NOT NULL, file_hash TEXT NOT NULL, total_bytes INTEGER NOT NULL,
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        PRIMARY KEY (url, source, path)
    ) WITHOUT ROWID""",
    """CREATE TABLE hashes (
        source BLOB NOT NULL PRIMARY KEY, file_hash TEXT NOT NULL,
        device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE endings (
        url TEXT NOT NULL, session_id TEXT NOT NULL, file_hash TEXT NOT NULL, PRIMARY KEY (url, session_id)
    ) WITHOUT ROWID""",
)
_IDENTITY = ("CREATE TABLE identity (id TEXT NOT NULL)", "INSERT INTO identity VALUES (lower(hex(randomblob(16))))")
_HASH_PART = ("ALTER TABLE sessions ADD COLUMN hash_part TEXT",)
MIGRATIONS = (_FIRST, _IDENTITY, _HASH_PART)
_KNOWN_HASH = "SELECT file_hash, device, inode, size, mtime_ns, ctime_ns FROM hashes WHERE source = ?"
_KEEP_HASH = "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?, ?)"
_HASH_FIRST = "SELECT 1 FROM hashes WHERE size = ? OR (source = ? AND file_hash LIKE 'v1.%') LIMIT 1"
_DROP_HASH = "DELETE FROM hashes WHERE source = ?"
_SESSION = (
    "SELECT session_id, file_hash, total_bytes, hash_part, device, inode, size, mtime_ns, ctime_ns FROM sessions"
    " WHERE url = ? AND source = ? AND path = ?"
)
_BEGUN = "SELECT source, path FROM sessions WHERE url = ?"
_KEEP_SESSION = "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_KEEP_PART = "UPDATE sessions SET hash_part = ? WHERE url = ? AND source = ? AND path = ? AND session_id = ?"
_DROP_SESSION = "DELETE FROM sessions WHERE url = ? AND source = ? AND path = ?"
_ENDINGS = "SELECT session_id, file_hash FROM endings WHERE url = ?"
_END_LATER = "INSERT OR IGNORE INTO endings VALUES (?, ?, ?)"
_ENDED = "DELETE FROM endings WHERE url = ? AND session_id = ?"


Row = TypeVar("Row")


def default_path() -> str:
    """Where the library keeps its memory: one file in the user's state folder."""
    import platformdirs

    try:
        return os.path.join(platformdirs.user_state_dir("chunkyd"), "uploads.sqlite3")
    except RuntimeError as error:  # a user without a home, as containers have them
        raise StateError(
            "this user has no home folder to remember uploads in", mend="Set HOME, or name a file (--state)."
        ) from error


class SqliteMemory:
    """A `Memory` in one SQLite file. Raises StateError and StorageFull."""

    def __init__(self, path: str | None = None) -> None:
        self.path = os.fsdecode(absolute(os.fsencode(path or default_path())))
        self._opened_ns = max(0, time.time_ns())
        self._lock = threading.Lock()
        with _translated(self.path):
            make_durable_folder(os.path.dirname(self.path))
            _require_file(self.path)
            # one connection for all threads, behind our own lock; transactions are begun by hand
            self._database = sqlite3.connect(
                self.path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            reached("upload.memory.opened")
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        with _translated(self.path):
            self._version()  # before anything is written: one of a newer program stays as it is
            begin_log(self._database, _PATIENCE_SECONDS)
            if os.stat(self.path).st_mode & 0o077:  # only now it is known to be a database
                os.chmod(self.path, 0o600)
            self._database.execute(_DURABLE)
        with self._transaction() as database:
            version = self._version()
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    database.execute(statement)
            if version < len(MIGRATIONS):
                database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            (self._identity,) = database.execute("SELECT id FROM identity").fetchone()

    def _version(self) -> int:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StateError(
                f"{self.path} was written by a newer version of this program",
                mend="Update this program, or name another file.",
            )
        return int(version)

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; one that is not `durable` may be lost with the power, until the next one that is.

        IMMEDIATE: of two deferred ones that have read and now write, one fails at once.
        """
        with self._lock, _translated(self.path), contextlib.ExitStack() as after:
            if not durable:
                self._database.execute(_QUICK)
                after.callback(self._database.execute, _DURABLE)
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                reached("upload.memory.committing")
                self._database.execute("COMMIT")
                reached("upload.memory.committed")
            except BaseException:
                if self._database.in_transaction:  # a full disk has rolled it back already
                    self._database.execute("ROLLBACK")
                raise

    def _rows(self, read: Callable[[Sequence[object]], Row], question: str, *values: object) -> list[Row]:
        with self._lock, _translated(self.path):
            return [read(row) for row in self._database.execute(question, values)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def origin(self, fingerprint: Fingerprint) -> Origin:
        """By the time this memory was opened: of two commands the one begun later is the later wish, whatever it sends.

        Where the clock was set back, the server's refusal costs a request.
        """
        return Origin(self._identity, self._opened_ns)

    def known_hash(self, key: UploadKey, fingerprint: Fingerprint) -> str | None:
        """The hash taken of exactly this version, or None."""
        for file_hash, hashed in self._rows(_hash_taken, _KNOWN_HASH, key.source):
            if hashed.same_version(fingerprint) and not is_file_version(file_hash):
                return file_hash
        return None

    def remember_hash(self, key: UploadKey, fingerprint: Fingerprint, file_hash: str) -> None:
        """A hash was taken."""
        with self._transaction() as database:
            database.execute(_KEEP_HASH, (key.source, file_hash, *fingerprint_columns(fingerprint)))

    def hash_first(self, key: UploadKey, size: int) -> bool:
        """Whether a hash was taken of a file of this size, or this one did not hold still."""
        return bool(self._rows(tuple, _HASH_FIRST, size, key.source))

    def unsteady(self, key: UploadKey, fingerprint: Fingerprint, version: str) -> None:
        """Kept in the place of its hash, until one is taken."""
        self.remember_hash(key, fingerprint, version)

    def recall(self, key: UploadKey) -> Remembered | None:
        """The session under way for this upload, of whatever version."""
        rows = self._rows(_remembered, _SESSION, key.url, key.source, key.path)
        return rows[0] if rows else None

    def begun(self, url: str) -> set[tuple[bytes, bytes]]:
        """Source and published path of every upload under way to this server."""
        return set(self._rows(_place, _BEGUN, url))

    def remember(self, key: UploadKey, session: Remembered) -> Remembered:
        """Keep a new session, and return the one that counts."""
        with self._transaction() as database:
            row = database.execute(_SESSION, (key.url, key.source, key.path)).fetchone()
            there = _remembered(row) if row is not None else None
            if there is not None and there.file_hash == session.file_hash:
                if there.session_id != session.session_id:
                    database.execute(_END_LATER, (key.url, session.session_id, session.file_hash))
                return there
            if there is not None:
                database.execute(_END_LATER, (key.url, there.session_id, there.file_hash))
            columns = (session.session_id, session.file_hash, session.total_bytes)
            version = fingerprint_columns(session.fingerprint)
            database.execute(_KEEP_SESSION, (key.url, key.source, key.path, *columns, *version))
            database.execute(_ENDED, (key.url, session.session_id))  # one that is given again is in use
        return session

    def remember_part(self, key: UploadKey, session_id: str, part: str) -> None:
        """How far the hash of what this session carries is."""
        with self._transaction(durable=False) as database:  # a hash must not wait for the disk at each part
            database.execute(_KEEP_PART, (part, key.url, key.source, key.path, session_id))

    def completed(self, key: UploadKey) -> None:
        """The server said complete: record it, and move the session to the endings."""
        with self._transaction() as database:
            _give_up(database, key, None)

    def forget(self, key: UploadKey, session_id: str, *, rehash: bool = False) -> None:
        """This session is given up: move it to the endings if it still counts; `rehash` drops the hash taken too."""
        with self._transaction() as database:
            _give_up(database, key, session_id)
            if rehash:
                database.execute(_DROP_HASH, (key.source,))

    def endings(self, url: str) -> list[tuple[str, str]]:
        """Session ID and file hash of every session at this server that is still to be ended."""
        return self._rows(_ending, _ENDINGS, url)

    def ended(self, url: str, session_id: str) -> None:
        """The server says that this session is gone."""
        with self._transaction() as database:
            database.execute(_ENDED, (url, session_id))


def _require_file(path: str) -> None:
    """Begin the file, for its owner only, since session IDs are keys; one that is there must be one.

    It is not opened to look: closing it again would take the locks away that this process may have on it elsewhere.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not is_regular(os.stat(path)):
            raise StateError(f"{path} is not a regular file", mend="Name another one.") from None


def _give_up(database: sqlite3.Connection, key: UploadKey, session_id: str | None) -> None:
    row = database.execute(_SESSION, (key.url, key.source, key.path)).fetchone()
    if row is not None and session_id in (None, row[0]):
        database.execute(_END_LATER, (key.url, row[0], row[1]))
        database.execute(_DROP_SESSION, (key.url, key.source, key.path))


# Rows as the database holds them. ValueError where a damaged one holds what was never written: it must reach no header.


def _remembered(row: Sequence[object]) -> Remembered:
    session_id, file_hash, total_bytes, part, *columns = row
    total = msgspec.convert(total_bytes, Bytes)
    kept = msgspec.convert(part, str | None)
    return Remembered(_word(session_id), _word(file_hash), _version(columns), total, kept)


def _hash_taken(row: Sequence[object]) -> tuple[str, Fingerprint]:
    return _word(row[0]), _version(row[1:])


def _ending(row: Sequence[object]) -> tuple[str, str]:
    session_id, file_hash = row
    return _word(session_id), _word(file_hash)


def _place(row: Sequence[object]) -> tuple[bytes, bytes]:
    source, path = row
    return msgspec.convert(source, bytes), msgspec.convert(path, bytes)


def _version(columns: Sequence[object]) -> Fingerprint:
    return fingerprint_of_columns(msgspec.convert(columns, list[Column]))


def _word(column: object) -> str:
    """A session ID or a hash, as it can travel in a header."""
    return msgspec.convert(column, SessionId)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's and the file system's errors as this project's."""
    try:
        yield
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF  # a quota is an I/O error to SQLite
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and has_no_room(os.path.dirname(path))):
            raise StorageFull(f"{path} cannot be written: the disk is full", mend="Make room and try again.") from error
        raise StateError(
            f"{path} cannot be used: {error}", mend="Check its folder, move it aside, or name another file."
        ) from error
    except ValueError as error:
        raise StateError(f"{path} is damaged", mend="Move it aside, or name another file.") from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror}", mend="Check its folder.") from error
