"""Published files in SQL. Paths are bytes, and compared as bytes: what is below `p` lies between `p/` and `p0`."""

# ruff: noqa: S608 - statements are put together from constants of this package only; values are parameters

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from chunkyd.catalog.base import FileRecord
from chunkyd.catalog.database import CatalogDatabase, Row
from chunkyd.catalog.schema import ACTIVE
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target

PAGE = 500
_COLUMNS = "user, path, file_hash, size, fingerprint, sequence, published_at"
_SELECT = f"SELECT {_COLUMNS} FROM file"
_INSERT = f"INSERT INTO file ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
BELOW = "user = ? AND path > ? AND path < ?"
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

    def put_file(self, file: FileRecord) -> None:
        """See the contract."""
        with self._database.writing():
            put(self._database, file)

    def remove_file(self, target: Target) -> None:
        """See the contract."""
        with self._database.writing():
            _remove(self._database, target.user, "user = ? AND path = ?", target.user, target.path)

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
    fingerprint = msgspec.json.encode(msgspec.structs.astuple(file.fingerprint)).decode("ascii")
    database.change(
        _INSERT, file.user, file.path, file.file_hash, file.size, fingerprint, file.sequence, file.published_at
    )
    database.change(_USED, file.user, file.size)


def _remove(database: CatalogDatabase, user: str, condition: str, *parameters: object) -> None:
    row = database.row(f"SELECT count(*), sum(size) FROM file WHERE {condition}", *parameters)
    if row is not None and row[0]:
        database.change(f"DELETE FROM file WHERE {condition}", *parameters)
        database.change(_USED, user, -int(row[1]))


def _in_the_way(target: Target) -> Iterator[tuple[str, Row]]:
    """What is at the path or a parent of it; what is below it. Each is answered by the primary key."""
    parts = target.path.split(b"/")
    paths = [b"/".join(parts[: count + 1]) for count in range(len(parts))]
    yield f"user = ? AND path IN ({', '.join('?' * len(paths))})", (target.user, *paths)
    yield BELOW, (target.user, target.path + b"/", target.path + b"0")


def _record(row: Row) -> FileRecord:
    user, path, file_hash, size, fingerprint, sequence, published_at = row
    return FileRecord(
        user, path, file_hash, size, Fingerprint(*msgspec.json.decode(fingerprint)), sequence, published_at
    )
