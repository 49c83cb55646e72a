"""Sessions and their stored ranges in SQL."""

# ruff: noqa: S608 - statements are put together from constants of this package only; values are parameters

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from chunkyd.catalog.base import ACTIVE_STATES, FileRecord, SessionRecord, SessionState, StoredRange, TooLate, Wish
from chunkyd.catalog.database import CatalogDatabase, Row, Taken
from chunkyd.catalog.schema import ACTIVE
from chunkyd.catalog.sql_files import put, put_all
from chunkyd.protocol.ranges import Range, RangeSet
from chunkyd.turns import in_turn

PAGE = 500
_COLUMNS = (
    "session_id, sequence, user, file_hash, total_bytes, target, state, created, expires_at,"
    " modified_ns, mode, reserved, idempotency, inode, copy_of, file_version"
)
_SELECT = f"SELECT {_COLUMNS} FROM session"
_INSERT = f"INSERT INTO session ({_COLUMNS}) VALUES (?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_USE_UP_OF = (
    "INSERT INTO wish SELECT idempotency, NULL, coalesce(?, expires_at) FROM session"
    " WHERE session_id = ? AND idempotency IS NOT NULL"
    " ON CONFLICT (subject) DO UPDATE SET expires_at = excluded.expires_at"
)
_LATER = "SELECT 1 FROM wish WHERE subject = ? AND (number IS NULL OR number > ?)"
_WISH = (
    "INSERT INTO wish VALUES (?, ?, ?)"
    " ON CONFLICT (subject) DO UPDATE SET number = excluded.number, expires_at = excluded.expires_at"
)
_WISHED = "SELECT subject, number FROM wish WHERE subject IN ({})"
_SEQUENCES = "SELECT session_id, sequence FROM session WHERE session_id IN ({})"
_ACTIVE_SEQUENCES = f"SELECT session_id, sequence FROM session WHERE {ACTIVE} AND session_id IN ({{}})"
_STORED_BEFORE = "SELECT start, stop FROM stored WHERE sequence = ? AND start <= ? ORDER BY start DESC LIMIT 1"
_STORED_WITHIN = "SELECT max(stop) FROM stored WHERE sequence = ? AND start BETWEEN ? AND ?"
_FORGET_WITHIN = "DELETE FROM stored WHERE sequence = ? AND start BETWEEN ? AND ?"


class _Publishing(Exception):
    """It must not expire now."""


class SqlSessions:
    """See `SessionCatalog`."""

    def __init__(self, database: CatalogDatabase) -> None:
        self._database = database

    def add_session(self, record: SessionRecord, wish: Wish | None = None) -> SessionRecord:
        """See the contract."""
        with self._database.writing():
            if record.idempotency is not None:
                known = self._database.row(f"{_SELECT} WHERE idempotency = ?", record.idempotency)
                if known is not None:
                    return _record(known)
                self._check_late(record.idempotency, 0)
            if wish is not None:
                self._wish(wish.subject, wish.order, record.expires_at)
            return self._add(record)

    def add_sessions(
        self,
        records: Sequence[SessionRecord],
        *,
        wishes: Sequence[Wish] = (),
        key: bytes | None = None,
        until: float = 0.0,
    ) -> list[SessionRecord]:
        """See the contract."""
        with self._database.writing(), in_turn():  # which ends before the commit
            if key is not None:
                self._wish(key, None, until)
            self._wish_all(wishes, until)
            try:
                self._database.change_many(_INSERT, list(map(_row, records)))
            except Taken as error:
                raise ValueError("this session ID is taken") from error
            names = [(record.session_id,) for record in records]
            sequences: dict[str, int] = dict(self._database.rows_of(_SEQUENCES, names))
        return [replace(record, sequence=sequences[record.session_id]) for record in records]

    def _wish_all(self, wishes: Sequence[Wish], until: float) -> None:
        known: dict[bytes, int | None] = dict(self._database.rows_of(_WISHED, [(wish.subject,) for wish in wishes]))
        for wish in wishes:
            number = known.get(wish.subject, -1)
            if number is None or number > wish.order:
                raise TooLate
            known[wish.subject] = wish.order
        self._database.change_many(_WISH, [(wish.subject, wish.order, until) for wish in wishes])

    def _wish(self, subject: bytes, order: int | None, until: float) -> None:
        self._check_late(subject, order or 0)
        self._database.change(_WISH, subject, order, until)

    def _check_late(self, subject: bytes, order: int) -> None:
        if self._database.row(_LATER, subject, order) is not None:
            raise TooLate

    def _add(self, record: SessionRecord) -> SessionRecord:
        try:
            self._database.change(_INSERT, *_row(record))
        except Taken as error:
            raise ValueError("this session ID is taken") from error
        row = self._database.row("SELECT sequence FROM session WHERE session_id = ?", record.session_id)
        assert row is not None
        return replace(record, sequence=row[0])

    def session(self, session_id: str) -> SessionRecord | None:
        """See the contract."""
        row = self._database.row(f"{_SELECT} WHERE session_id = ?", session_id)
        return _record(row) if row is not None else None

    def sessions(self, *, user: str | None = None, tombstones: bool = False) -> Iterator[SessionRecord]:
        """See the contract. Page by page: no snapshot is held while the caller thinks."""
        whose, parameters = ("", ()) if user is None else ("user = ? AND ", (user,))
        statement = f"{_SELECT} WHERE {whose}sequence > ? ORDER BY sequence LIMIT {PAGE}"
        last = 0
        while rows := self._database.rows(statement, *parameters, last):
            for record in map(_record, rows):
                last = record.sequence
                if tombstones or record.state != SessionState.EXPIRED:
                    yield record

    def stored(self, session_id: str) -> list[Range]:
        """See the contract."""
        rows = self._database.rows(
            "SELECT start, stop FROM stored WHERE sequence = (SELECT sequence FROM session WHERE session_id = ?)"
            " ORDER BY start",
            session_id,
        )
        return [(start, stop) for start, stop in rows]

    def record_stored(self, batch: Iterable[StoredRange]) -> None:
        """See the contract."""
        ranges: dict[str, RangeSet] = {}
        deadlines: dict[str, float] = {}
        for item in batch:
            ranges.setdefault(item.session_id, RangeSet()).add(item.start, item.stop)
            deadlines[item.session_id] = item.expires_at
        if not ranges:
            return
        with self._database.writing():
            for session_id, stored in ranges.items():
                row = self._database.row(f"SELECT sequence FROM session WHERE session_id = ? AND {ACTIVE}", session_id)
                if row is None:
                    continue
                for start, stop in stored:
                    self._merge(row[0], start, stop)
                self._database.change(
                    "UPDATE session SET expires_at = ? WHERE sequence = ?", deadlines[session_id], row[0]
                )

    def _merge(self, sequence: int, start: int, stop: int) -> None:
        """Put [start, stop) in and swallow what it overlaps or touches: one range before it, any number within."""
        before = self._database.row(_STORED_BEFORE, sequence, start)
        if before is not None and before[1] >= start:
            start, stop = before[0], max(stop, before[1])
        within = self._database.row(_STORED_WITHIN, sequence, start, stop)
        last = stop
        if within is not None and within[0] is not None:
            last = max(stop, within[0])
            self._database.change(_FORGET_WITHIN, sequence, start, stop)
        self._database.change("INSERT INTO stored (sequence, start, stop) VALUES (?, ?, ?)", sequence, start, last)

    def declare(self, session_id: str, file_hash: str) -> str | None:
        """See the contract."""
        with self._database.writing():
            self._database.change(
                f"UPDATE session SET file_hash = ? WHERE session_id = ? AND file_hash = '' AND {ACTIVE}",
                file_hash,
                session_id,
            )
            row = self._database.row(f"SELECT file_hash FROM session WHERE session_id = ? AND {ACTIVE}", session_id)
        return str(row[0]) if row is not None else None

    def move(
        self, session_id: str, before: Iterable[SessionState], after: SessionState, *, inode: int | None = None
    ) -> bool:
        """See the contract."""
        with self._database.writing():
            moved = self._move(session_id, before, after, inode)
            if moved and after == SessionState.DEAD:
                self._forget_ranges(session_id)
        return moved

    def _move(
        self, session_id: str, before: Iterable[SessionState], after: SessionState, inode: int | None = None
    ) -> bool:
        states = [state.value for state in before]
        marks = ", ".join("?" * len(states))
        changed = self._database.change(
            f"UPDATE session SET state = ?, inode = coalesce(?, inode) WHERE session_id = ? AND state IN ({marks})",
            after.value,
            str(inode) if inode is not None else None,
            session_id,
            *states,
        )
        return changed == 1

    def _forget_ranges(self, session_id: str) -> None:
        self._database.change(
            "DELETE FROM stored WHERE sequence = (SELECT sequence FROM session WHERE session_id = ?)", session_id
        )

    def complete(self, session_id: str, file: FileRecord | None) -> bool:
        """See the contract."""
        with self._database.writing():
            if not self._move(session_id, ACTIVE_STATES, SessionState.COMPLETE):
                return False
            self._forget_ranges(session_id)
            if file is not None:
                put(self._database, file)
        return True

    def complete_all(self, published: Sequence[tuple[str, FileRecord]]) -> None:
        """See the contract."""
        with self._database.writing(), in_turn():
            names = [(session_id,) for session_id, _ in published]
            active: dict[str, int] = dict(self._database.rows_of(_ACTIVE_SEQUENCES, names))
            put_all(self._database, [file for session_id, file in published if session_id in active])
            ended = [(sequence,) for sequence in active.values()]
            self._database.change_all("DELETE FROM stored WHERE sequence IN ({})", ended)
            self._database.change_all("DELETE FROM session WHERE sequence IN ({})", ended)

    def end(self, session_id: str) -> None:
        """See the contract."""
        self._database.forgetting(lambda: self._end(session_id, use_up=True))

    def forget(self, session_id: str) -> None:
        """See the contract."""
        self._database.forgetting(lambda: self._end(session_id, use_up=False))

    def _end(self, session_id: str, *, use_up: bool) -> None:
        with self._database.writing():
            if use_up:
                self._database.change(_USE_UP_OF, None, session_id)
            self._forget_ranges(session_id)
            self._database.change("DELETE FROM session WHERE session_id = ?", session_id)

    def expire(self, session_id: str, tombstone_until: float) -> bool:
        """See the contract."""
        with contextlib.suppress(_Publishing):
            self._database.forgetting(lambda: self._expire(session_id, tombstone_until))
            return True
        return False

    def _expire(self, session_id: str, tombstone_until: float) -> None:
        with self._database.writing():
            row = self._database.row("SELECT state FROM session WHERE session_id = ?", session_id)
            if row is not None and row[0] == SessionState.PUBLISHING.value:
                raise _Publishing
            self._database.change(_USE_UP_OF, tombstone_until, session_id)
            self._forget_ranges(session_id)
            self._database.change(
                "UPDATE session SET state = ?, idempotency = NULL, expires_at = ? WHERE session_id = ?",
                SessionState.EXPIRED.value,
                tombstone_until,
                session_id,
            )

    def due(self, now: float, limit: int) -> list[SessionRecord]:
        """See the contract."""
        rows = self._database.rows(f"{_SELECT} WHERE expires_at <= ? ORDER BY expires_at, sequence LIMIT ?", now, limit)
        return [_record(row) for row in rows]

    def purge_wishes(self, now: float, limit: int) -> int:
        """See the contract."""
        if self._database.row("SELECT 1 FROM wish WHERE expires_at <= ? LIMIT 1", now) is None:
            return 0
        with self._database.writing():
            return self._database.change(
                "DELETE FROM wish WHERE subject IN"
                " (SELECT subject FROM wish WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                now,
                limit,
            )

    def shift_deadlines(self, seconds: float) -> None:
        """See the contract."""
        with self._database.writing():
            self._database.change("UPDATE wish SET expires_at = expires_at + ?", seconds)
            statement = "UPDATE session SET expires_at = expires_at + ?, created = created + ?"
            self._database.change(statement, seconds, seconds)


def _row(record: SessionRecord) -> Row:
    return (
        record.session_id,
        record.user,
        record.file_hash,
        record.total_bytes,
        record.target,
        record.state.value,
        record.created,
        record.expires_at,
        str(record.modified_ns) if record.modified_ns is not None else None,
        record.mode,
        int(record.reserved),
        record.idempotency,
        str(record.inode) if record.inode is not None else None,
        record.copy_of,
        record.file_version,
    )


def _record(row: Row) -> SessionRecord:
    values = dict(zip(SessionRecord.__struct_fields__, row, strict=True))  # _COLUMNS has their order
    for number in ("modified_ns", "inode"):
        values[number] = int(values[number]) if values[number] is not None else None
    values["state"] = SessionState(values["state"])
    values["reserved"] = bool(values["reserved"])
    return SessionRecord(**values)
