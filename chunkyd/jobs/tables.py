"""The one door to peewee and SQLite: the tables, transactions, and errors as this project's.

Rules: each thread has a connection of its own. Writers take turns by our lock, so none of them polls SQLite's; every
transaction is IMMEDIATE, since a deferred one that reads and then writes fails at once when another wrote meanwhile.
Commits survive a crash of this program always, a power cut only with `durable=True`: what a power cut takes back
(claims, progress, what was queued) is found again by asking the server and by scanning. A commit is never half lost:
all before a durable one survive with it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import peewee

from chunkyd.checkpoints import reached
from chunkyd.errors import ChunkyError, StateError, StorageFull
from chunkyd.files import has_no_room

Row = tuple[Any, ...]  # as SQLite returns it; leaves this package only as a struct

_BUSY_SECONDS = 30
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "normal",
    "journal_size_limit": 64 << 20,
    "temp_store": "memory",
    # A megabyte of log: four, as SQLite has it, could be the last ones of a small disk: it is never brought home.
    "wal_autocheckpoint": 256,
}


class _Connection(sqlite3.Connection):
    durable = False  # how `synchronous` stands on this connection


class _Closing:
    """Closes a connection when its thread ends, and with it what belongs to the thread.

    A connection is part of a reference cycle of Python's own (its cache of statements): left to itself it keeps its
    files open until the collector comes by, which in a large and quiet process is after hundreds of uploads.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def __del__(self) -> None:
        self._connection.close()


class _Database(peewee.SqliteDatabase):
    """Knows all its threads' connections, so that `close` leaves no write-ahead log behind."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.opened: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._of_thread = threading.local()
        super().__init__(*arguments, **options)

    def _connect(self) -> _Connection:
        connection: _Connection = super()._connect()  # type: ignore[misc]  # missing in the type stubs
        self.opened.add(connection)
        self._of_thread.closing = _Closing(connection)
        return connection

    def rollback(self) -> None:
        """A full disk has rolled the transaction back already; a second time would hide the reason."""
        if self.mine().in_transaction:
            super().rollback()

    def mine(self) -> _Connection:
        """This thread's connection, opened now if it has none."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        return connection


class Tables:
    """The job table's file. Raises StorageFull and StateError; any method may be called from any thread."""

    def __init__(self, path: str, *, read_only: bool = False, immutable: bool = False) -> None:
        self.path = path
        self._closed = False
        self._turn = threading.Lock()
        name = path
        if read_only:
            name = "file:" + _quoted(path) + ("?immutable=1" if immutable else "?mode=ro")
        self._database = _Database(
            name,
            pragmas={} if read_only else _PRAGMAS,
            lock_type="IMMEDIATE",
            timeout=_BUSY_SECONDS,
            check_same_thread=False,  # closing is one thread's work; each connection is used by its own thread only
            factory=_Connection,
            uri=read_only,
        )

    def close(self) -> None:
        """Close every thread's connection; the last one brings the write-ahead log home."""
        with self._turn, translated(self.path):
            self._closed = True
            for connection in list(self._database.opened):
                connection.close()
            self._database.close()

    def connection(self) -> _Connection:
        """This thread's connection."""
        with translated(self.path):
            return self._mine()

    def _mine(self) -> _Connection:
        if self._closed:
            raise StateError(f"{self.path} is closed: this process is about to end")
        return self._database.mine()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All or nothing; with `durable` a power cut does not take it back."""
        with self._turn, self._making_room(), translated(self.path):
            connection = self.connection()
            if connection.durable is not durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                connection.durable = durable
            with self._database.atomic():
                yield
                reached("jobs.committing")
            reached("jobs.committed")

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        """Where the disk is full, bring the log home: it may hold what there is of room, and each page many times."""
        try:
            yield
        except StorageFull:
            with contextlib.suppress(sqlite3.Error, peewee.PeeweeException):
                self.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise

    def rows(self, question: str, values: Iterable[object] = ()) -> list[Row]:
        """All rows of the answer."""
        with translated(self.path):
            return list(self._mine().execute(question, tuple(values)))

    def one(self, question: str, values: Iterable[object] = ()) -> Row | None:
        """The first row of the answer."""
        with translated(self.path):
            row: Row | None = self._mine().execute(question, tuple(values)).fetchone()
            return row

    def execute(self, statement: str, values: Iterable[object] = ()) -> int:
        """How many rows were changed."""
        with translated(self.path):
            return int(self._mine().execute(statement, tuple(values)).rowcount)

    def execute_many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """One statement for each row."""
        with translated(self.path):
            self._mine().executemany(statement, rows)


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path))


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """SQLite's errors, bare or in peewee's clothes, as this project's."""
    try:
        yield
    except ChunkyError:
        raise
    except (sqlite3.Error, peewee.PeeweeException) as error:
        raise _translation(path, error) from error


def _translation(path: str, error: BaseException) -> ChunkyError:
    origin = error if isinstance(error, sqlite3.Error) else error.__cause__ or error.__context__
    code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
    # A quota, and a full disk under the log's shared memory, are I/O errors to SQLite.
    folder = os.path.dirname(path) or "."
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and has_no_room(folder)):
        return StorageFull(
            f"{path} cannot be written: the disk is full", mend="make room; nothing is lost, chunkyd goes on by itself"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StateError(
            f"{path} is damaged ({error})", mend="restart chunkyd: it moves the file aside and makes a new one"
        )
    return StateError(f"{path} cannot be used: {error}", mend="see that its folder is there and may be written to")
