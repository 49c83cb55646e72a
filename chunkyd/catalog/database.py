"""The door to peewee and SQLite: connections, transactions, and what their errors mean.

Every thread has a connection of its own (peewee); readers never wait for a writer (WAL). Writers wait in a line
within the process, because SQLite's own waiting is sleeping and trying again, and for 30 s behind other processes.
A commit is on the disk when it returns (synchronous=FULL).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import peewee

from chunkyd.catalog.spare import Spare
from chunkyd.checkpoints import reached
from chunkyd.errors import ChunkyError, StateError, StorageFull
from chunkyd.files import has_no_room
from chunkyd.write_ahead import begin_log

Row = tuple[Any, ...]

_PRAGMAS = {"synchronous": "full", "cache_size": -1024, "journal_size_limit": 1 << 26}
_TIMEOUT_SECONDS = 30
_VALUES = 500  # in one statement, beside a few others: older SQLites take 999


class Taken(Exception):
    """A value that has to be unique is there already; the caller's to translate."""


def _full(path: str) -> ChunkyError:
    return StorageFull(f"no room to record anything in {path}", mend="make room on that disk")


def _broken(path: str) -> ChunkyError:
    return StateError(
        f"the catalog {path} is damaged",
        mend="restart the server: it moves the damaged catalog aside and builds a new one from the published files",
    )


def _busy(path: str) -> ChunkyError:
    error = StateError(f"the catalog {path} is locked by another process", mend="try again in a moment")
    error.retryable = True
    return error


def _readonly(path: str) -> ChunkyError:
    return StateError(f"the catalog {path} cannot be written", mend="check its owner, its folder and the file system")


def _input_output(path: str) -> ChunkyError:
    if has_no_room(os.path.dirname(path) or "."):
        return _full(path)  # SQLite says so of a quota, and where it is its shared memory file that has no room
    return StateError(f"reading or writing the catalog {path} failed", mend="check the disk and the system's log")


_MEANINGS: Mapping[int, Callable[[str], ChunkyError]] = {
    sqlite3.SQLITE_FULL: _full,
    sqlite3.SQLITE_IOERR: _input_output,
    sqlite3.SQLITE_CORRUPT: _broken,
    sqlite3.SQLITE_NOTADB: _broken,
    sqlite3.SQLITE_BUSY: _busy,
    sqlite3.SQLITE_LOCKED: _busy,
    sqlite3.SQLITE_READONLY: _readonly,
    sqlite3.SQLITE_CANTOPEN: _readonly,
    sqlite3.SQLITE_PERM: _readonly,
}


def primary_code(error: BaseException | None) -> int | None:
    """SQLite's primary result code behind an exception of peewee's or of sqlite3's."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", None)
            return code & 0xFF if isinstance(code, int) else None
        error = error.__cause__ or error.__context__
    return None


class _Connection(sqlite3.Connection):
    """One that can be referred to weakly: it goes when its thread goes."""


class CatalogDatabase:
    """Statements and transactions, in the terms of `errors`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.spare = Spare(f"{path}.spare")
        self._line = threading.RLock()
        self._opened: weakref.WeakSet[_Connection] = weakref.WeakSet()  # every thread's, so that all can be closed
        self._database = peewee.SqliteDatabase(
            path,
            pragmas=_PRAGMAS,
            lock_type="IMMEDIATE",
            timeout=_TIMEOUT_SECONDS,
            check_same_thread=False,
            factory=self._connect,
        )

    def _connect(self, *arguments: Any, **options: Any) -> _Connection:
        connection = _Connection(*arguments, **options)
        self._opened.add(connection)
        begin_log(connection, _TIMEOUT_SECONDS)
        return connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (peewee.IntegrityError, sqlite3.IntegrityError) as error:
            raise Taken(str(error)) from error
        except (peewee.PeeweeException, sqlite3.Error) as error:
            meaning = _MEANINGS.get(primary_code(error) or 0)
            if meaning is not None:
                raise meaning(self.path) from error
            raise StateError(f"the catalog {self.path} cannot be used: {error}") from error

    def rows(self, statement: str, *parameters: object) -> list[Row]:
        """All rows at once, so that no open cursor keeps an old snapshot alive."""
        with self._translated():
            found: list[Row] = self._execute(statement, parameters).fetchall()
        return found

    def row(self, statement: str, *parameters: object) -> Row | None:
        """The first row, or None."""
        found = self.rows(statement, *parameters)
        return found[0] if found else None

    def change(self, statement: str, *parameters: object) -> int:
        """How many rows a statement inside `writing` changed; Taken where one must be unique and is not."""
        with self._translated():
            return self._execute(statement, parameters).rowcount

    def change_many(self, statement: str, rows: Sequence[Row]) -> None:
        """`change` for each of many rows of parameters, past what peewee does for each statement."""
        with self._translated():
            connection: sqlite3.Connection = self._database.connection()  # type: ignore[no-untyped-call]
            connection.executemany(statement, rows)

    def rows_of(self, statement: str, wanted: Sequence[Row], *parameters: object) -> list[Row]:
        """`rows` for any number of tuples of values: they stand for the `{}` in the statement, some at a time."""
        found: list[Row] = []
        for marks, values in _some_at_a_time(wanted):
            found += self.rows(statement.format(marks), *parameters, *values)
        return found

    def change_all(self, statement: str, wanted: Sequence[Row]) -> None:
        """`change`, for tuples as in `rows_of`."""
        for marks, values in _some_at_a_time(wanted):
            self.change(statement.format(marks), *values)

    def _execute(self, statement: str, parameters: Row) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._database.execute_sql(statement, parameters)  # type: ignore[no-untyped-call]
        return cursor

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of it is durable on leaving, or none of it on an error. Not to be nested."""
        with self._line, self._translated():
            try:
                self._database.begin()
                yield
                reached("catalog.committing")
                self._database.commit()
            except BaseException:
                self._roll_back()
                raise
            reached("catalog.committed")
            self.spare.renew()

    def _roll_back(self) -> None:
        """End this thread's transaction, if it has one: a full disk has rolled it back already.

        Left open it would keep all others out; so where even that fails, for lack of memory, its connection ends.
        """
        connection: sqlite3.Connection = self._database.connection()  # type: ignore[no-untyped-call]
        try:
            if connection.in_transaction:
                self._database.rollback()
        finally:
            if connection.in_transaction:
                self._database.close()

    def forgetting(self, work: Callable[[], None]) -> None:
        """Do a transaction that makes room; where the disk is full, in the room that is set aside for this."""
        try:
            work()
        except StorageFull:
            if not self.spare.give_back():
                raise
            work()

    def close(self) -> None:
        """Close every thread's connection; the last one moves the log into the file."""
        with self._line, self._translated():
            self._database.close()
            for connection in list(self._opened):
                connection.close()


def _some_at_a_time(wanted: Sequence[Row]) -> Iterator[tuple[str, Iterator[object]]]:
    """As many tuples as one statement takes, again and again: their marks, and their values."""
    width = len(wanted[0]) if wanted else 1
    for first in range(0, len(wanted), _VALUES // width):
        some = wanted[first : first + _VALUES // width]
        yield ", ".join([f"({', '.join('?' * width)})"] * len(some)), itertools.chain.from_iterable(some)
