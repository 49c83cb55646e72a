"""Published files in SQL. Paths are bytes, and compared as bytes: what is below `p` lies between `p/` and `p0`."""

# ruff: noqa: S608 - statements are put together from constants of this package only; values are parameters

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from chunkyd.catalog.base import FileRecord
from chunkyd.catalog.database import CatalogDatabase, Row
from chunkyd.catalog.schema import ACTIVE
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target

PAGE = 500
_TOGETHER = 100
_DEEP = 32  # folders
_COLUMNS = "user, path, file_hash, size, fingerprint, sequence, published_at"
_SELECT = f"SELECT {_COLUMNS} FROM file"
_INSERT = f"INSERT INTO file ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
# The values come first, and the primary key answers for each: for `(user, path) IN` SQLite looks at all files.
_THERE = (
    "SELECT user, path FROM (VALUES {}) AS wanted CROSS JOIN file ON user = wanted.column1 AND path = wanted.column2"
)
_FOLDERS = (
    "SELECT wanted.column1, wanted.column2 FROM (VALUES {}) AS wanted"
    " WHERE EXISTS (SELECT 1 FROM file WHERE user = wanted.column1 AND path > wanted.column2 AND path < wanted.column3)"
)
BELOW = "user = ? AND path > ? AND path < ?"
_KNOWN = "SELECT DISTINCT file_hash FROM file WHERE user = ? AND file_hash IN ({})"
_USED = (
    "INSERT INTO usage (user, bytes) VALUES (?, ?)"
    " ON CONFLICT (user) DO UPDATE SET bytes = usage.bytes + excluded.bytes"
)


class SqlFiles:
    """See `FileCatalog`."""

    def __init__(self, database: CatalogDatabase) -> None:
        self._database = database

    def file(self, target: Target) -> FileRecord | None:
        """See the contract."""
        row = self._database.row(f"{_SELECT} WHERE user = ? AND path = ?", target.user, target.path)
        return _record(row) if row is not None else None

    def versions(self, user: str, file_hash: str, size: int, limit: int = 8) -> list[FileRecord]:
        """See the contract."""
        rows = self._database.rows(
            f"{_SELECT} WHERE user = ? AND file_hash = ? AND size = ? ORDER BY sequence DESC LIMIT ?",
            user,
            file_hash,
            size,
            limit,
        )
        return [_record(row) for row in rows]

    def known_hashes(self, user: str, hashes: Sequence[str]) -> set[str]:
        """See the contract."""
        rows = self._database.rows_of(_KNOWN, [(each,) for each in hashes], user)
        return {str(row[0]) for row in rows}

    def put_file(self, file: FileRecord) -> None:
        """See the contract."""
        with self._database.writing():
            put(self._database, file)

    def remove_file(self, target: Target, sequence: int | None = None) -> None:
        """See the contract."""
        condition = "user = ? AND path = ? AND (? IS NULL OR sequence = ?)"
        with self._database.writing():
            _remove(self._database, target.user, condition, target.user, target.path, sequence, sequence)

    def newest_sequence_in_the_way(self, target: Target) -> int:
        """See the contract."""
        newest = 0
        for condition, parameters in _in_the_way(target):
            row = self._database.row(f"SELECT max(sequence) FROM file WHERE {condition}", *parameters)
            if row is not None and row[0] is not None:
                newest = max(newest, int(row[0]))
        return newest

    def files(self, user: str | None = None) -> Iterator[FileRecord]:
        """See the contract. Page by page: no snapshot is held while the caller thinks."""
        whose, owner, path = (
            ("(user, path) > (?, ?)", "", b"") if user is None else ("user = ? AND path > ?", user, b"")
        )
        statement = f"{_SELECT} WHERE {whose} ORDER BY user, path LIMIT {PAGE}"
        while rows := self._database.rows(statement, owner, path):
            yield from map(_record, rows)
            owner, path = rows[-1][0], rows[-1][1]

    def knows_files(self) -> bool:
        """See the contract."""
        return self._database.row("SELECT 1 FROM rebuild WHERE records = 'file'") is None

    def set_files_known(self) -> None:
        """See the contract."""
        with self._database.writing():
            self._database.change("DELETE FROM rebuild WHERE records = 'file'")

    def usage(self, user: str) -> int:
        """See the contract. Sums of what clients announce may pass 63 bits, so they are made here."""
        row = self._database.row("SELECT bytes FROM usage WHERE user = ?", user)
        waiting = self._database.rows(f"SELECT total_bytes FROM session WHERE user = ? AND {ACTIVE}", user)
        return (int(row[0]) if row is not None else 0) + sum(int(found[0]) for found in waiting)


def put(database: CatalogDatabase, file: FileRecord) -> None:
    """Record a file in the transaction under way, and remove what is in its way."""
    for condition, parameters in _in_the_way(Target(file.user, file.path)):
        _remove(database, file.user, condition, *parameters)
    database.change(_INSERT, *_row(file))
    database.change(_USED, file.user, file.size)


def put_all(database: CatalogDatabase, files: Sequence[FileRecord]) -> None:
    """`put` for each of them, in order; those that have nothing in their way cost a few statements together."""
    for first in range(0, len(files), _TOGETHER):
        some = files[first : first + _TOGETHER]
        free = _free(database, some) if _can_go_together(some) else []
        unhindered = {(file.user, file.path) for file in free}
        for file in some:
            if (file.user, file.path) not in unhindered:
                put(database, file)
        database.change_many(_INSERT, list(map(_row, free)))
        for user in {file.user for file in free}:
            database.change(_USED, user, sum(file.size for file in free if file.user == user))


def _can_go_together(files: Sequence[FileRecord]) -> bool:
    """Whether none is in another's way, and none is so deep that the names of all its folders would fill the memory."""
    if any(file.path.count(b"/") > _DEEP for file in files):
        return False
    paths = {(file.user, file.path) for file in files}
    return len(paths) == len(files) and not any(
        (file.user, path) in paths for file in files for path in _above(file.path)
    )


def _free(database: CatalogDatabase, files: Sequence[FileRecord]) -> list[FileRecord]:
    """Those that have nothing in their way."""
    places = {(file.user, path) for file in files for path in (*_above(file.path), file.path)}
    there = set(database.rows_of(_THERE, list(places)))
    ranges = [(file.user, file.path + b"/", file.path + b"0") for file in files]
    there.update((user, below[:-1]) for user, below in database.rows_of(_FOLDERS, ranges))
    return [file for file in files if there.isdisjoint((file.user, path) for path in (*_above(file.path), file.path))]


def _above(path: bytes) -> list[bytes]:
    """The folders on the way to it."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def _row(file: FileRecord) -> Row:
    fingerprint = msgspec.json.encode(msgspec.structs.astuple(file.fingerprint)).decode("ascii")
    return (file.user, file.path, file.file_hash, file.size, fingerprint, file.sequence, file.published_at)


def _remove(database: CatalogDatabase, user: str, condition: str, *parameters: object) -> None:
    row = database.row(f"SELECT count(*), sum(size) FROM file WHERE {condition}", *parameters)
    if row is not None and row[0]:
        database.change(f"DELETE FROM file WHERE {condition}", *parameters)
        database.change(_USED, user, -int(row[1]))


def _in_the_way(target: Target) -> Iterator[tuple[str, Row]]:
    """What is at the path or a parent of it; what is below it. Each is answered by the primary key."""
    paths = [*_above(target.path), target.path]
    yield f"user = ? AND path IN ({', '.join('?' * len(paths))})", (target.user, *paths)
    yield BELOW, (target.user, target.path + b"/", target.path + b"0")


def _record(row: Row) -> FileRecord:
    user, path, file_hash, size, fingerprint, sequence, published_at = row
    return FileRecord(
        user, path, file_hash, size, Fingerprint(*msgspec.json.decode(fingerprint)), sequence, published_at
    )
