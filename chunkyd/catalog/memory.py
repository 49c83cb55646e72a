"""Records that live in memory: for tests, for trying out, and as the shortest reading of the contract.

Nothing here survives the process. Questions look at every record: meant for thousands, not for millions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from chunkyd.catalog.base import (
    ACTIVE_STATES,
    FileRecord,
    SessionRecord,
    SessionState,
    StoredRange,
    TokenRecord,
    TooLate,
    Wish,
)
from chunkyd.protocol.paths import Target
from chunkyd.protocol.ranges import Range, RangeSet


class _Locked:
    """What the three parts share."""

    def __init__(self) -> None:
        self._lock = threading.RLock()


class _MemorySessions(_Locked):
    """Sessions and their stored ranges."""

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0
        self._sessions: dict[str, SessionRecord] = {}
        self._stored: dict[str, RangeSet] = {}
        self._wishes: dict[bytes, tuple[float, float]] = {}  # order (infinite: used up), until when it is remembered

    def add_session(self, record: SessionRecord, wish: Wish | None = None) -> SessionRecord:
        """See the contract."""
        with self._lock:
            if record.idempotency is not None:
                for known in self._sessions.values():
                    if known.idempotency == record.idempotency:
                        return known
                self._check_late(record.idempotency, 0)
            if record.session_id in self._sessions:
                raise ValueError("this session ID is taken")
            if wish is not None:
                self._wish(wish.subject, wish.order, record.expires_at)
            self._sequence += 1
            added = replace(record, sequence=self._sequence)
            self._sessions[record.session_id] = added
            return added

    def add_sessions(
        self,
        records: Sequence[SessionRecord],
        *,
        wishes: Sequence[Wish] = (),
        key: bytes | None = None,
        until: float = 0.0,
    ) -> list[SessionRecord]:
        """See the contract."""
        with self._lock:
            if any(record.session_id in self._sessions for record in records):
                raise ValueError("this session ID is taken")
            every = [(wish.subject, float(wish.order)) for wish in wishes] + ([(key, math.inf)] if key else [])
            for subject, order in every:
                self._check_late(subject, order)
            for subject, order in every:
                self._wish(subject, order, until)
            return [self.add_session(record) for record in records]

    def _wish(self, subject: bytes, order: float, until: float) -> None:
        self._check_late(subject, order)
        self._wishes[subject] = (order, until)

    def _check_late(self, subject: bytes, order: float) -> None:
        greatest, _ = self._wishes.get(subject, (-1.0, 0.0))
        if greatest > order or greatest == math.inf:
            raise TooLate

    def session(self, session_id: str) -> SessionRecord | None:
        """See the contract."""
        with self._lock:
            return self._sessions.get(session_id)

    def sessions(self, *, user: str | None = None, tombstones: bool = False) -> Iterator[SessionRecord]:
        """See the contract."""
        with self._lock:
            every = sorted(self._sessions.values(), key=lambda record: record.sequence)
        for record in every:
            if user in (None, record.user) and (tombstones or record.state != SessionState.EXPIRED):
                yield record

    def stored(self, session_id: str) -> list[Range]:
        """See the contract."""
        with self._lock:
            return list(self._stored.get(session_id, ()))

    def record_stored(self, batch: Iterable[StoredRange]) -> None:
        """See the contract."""
        with self._lock:
            for item in batch:
                record = self._sessions.get(item.session_id)
                if record is None or record.state not in ACTIVE_STATES:
                    continue
                self._stored.setdefault(item.session_id, RangeSet()).add(item.start, item.stop)
                self._sessions[item.session_id] = replace(record, expires_at=item.expires_at)

    def declare(self, session_id: str, file_hash: str) -> str | None:
        """See the contract."""
        with self._lock:
            record = self._sessions.get(session_id)
            if record is None or record.state not in ACTIVE_STATES:
                return None
            if not record.file_hash:
                self._sessions[session_id] = replace(record, file_hash=file_hash)
            return record.file_hash or file_hash

    def move(
        self, session_id: str, before: Iterable[SessionState], after: SessionState, *, inode: int | None = None
    ) -> bool:
        """See the contract."""
        with self._lock:
            record = self._sessions.get(session_id)
            if record is None or record.state not in set(before):
                return False
            if after == SessionState.DEAD:
                self._stored.pop(session_id, None)
            self._sessions[session_id] = replace(record, state=after, inode=record.inode if inode is None else inode)
            return True

    def end(self, session_id: str) -> None:
        """See the contract."""
        with self._lock:
            record = self._sessions.get(session_id)
            if record is not None and record.idempotency is not None:
                self._wishes[record.idempotency] = (math.inf, record.expires_at)
            self.forget(session_id)

    def forget(self, session_id: str) -> None:
        """See the contract."""
        with self._lock:
            self._sessions.pop(session_id, None)
            self._stored.pop(session_id, None)

    def expire(self, session_id: str, tombstone_until: float) -> bool:
        """See the contract."""
        with self._lock:
            record = self._sessions.get(session_id)
            if record is None or record.state is SessionState.PUBLISHING:
                return record is None
            self._stored.pop(session_id, None)
            if record.idempotency is not None:
                self._wishes[record.idempotency] = (math.inf, tombstone_until)
            self._sessions[session_id] = replace(
                record, state=SessionState.EXPIRED, expires_at=tombstone_until, idempotency=None
            )
            return True

    def due(self, now: float, limit: int) -> list[SessionRecord]:
        """See the contract."""
        with self._lock:
            found = [record for record in self._sessions.values() if record.expires_at <= now]
        found.sort(key=lambda record: (record.expires_at, record.sequence))
        return found[:limit]

    def purge_wishes(self, now: float, limit: int) -> int:
        """See the contract."""
        with self._lock:
            old = sorted((until, subject) for subject, (_, until) in self._wishes.items() if until <= now)[:limit]
            for _, subject in old:
                del self._wishes[subject]
            return len(old)

    def shift_deadlines(self, seconds: float) -> None:
        """See the contract."""
        with self._lock:
            self._wishes = {key: (order, until + seconds) for key, (order, until) in self._wishes.items()}
            for session_id, record in self._sessions.items():
                self._sessions[session_id] = replace(
                    record, expires_at=record.expires_at + seconds, created=record.created + seconds
                )


class _MemoryFiles(_Locked):
    """Published files."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[tuple[str, bytes], FileRecord] = {}
        self._knows_files = False

    def knows_files(self) -> bool:
        """See the contract."""
        with self._lock:
            return self._knows_files

    def set_files_known(self) -> None:
        """See the contract."""
        with self._lock:
            self._knows_files = True

    def file(self, target: Target) -> FileRecord | None:
        """See the contract."""
        with self._lock:
            return self._files.get((target.user, target.path))

    def versions(self, user: str, file_hash: str, size: int, limit: int = 8) -> list[FileRecord]:
        """See the contract."""
        with self._lock:
            found = [
                record
                for record in self._files.values()
                if (record.user, record.file_hash, record.size) == (user, file_hash, size)
            ]
        found.sort(key=lambda record: record.sequence, reverse=True)
        return found[:limit]

    def known_hashes(self, user: str, hashes: Sequence[str]) -> set[str]:
        """See the contract."""
        with self._lock:
            return {record.file_hash for record in self._files.values() if record.user == user} & set(hashes)

    def put_file(self, file: FileRecord) -> None:
        """See the contract."""
        with self._lock:
            for record in self._in_the_way(Target(file.user, file.path)):
                del self._files[record.user, record.path]
            self._files[file.user, file.path] = file

    def _in_the_way(self, target: Target) -> list[FileRecord]:
        return [
            record
            for record in self._files.values()
            if record.user == target.user
            and (
                record.path == target.path
                or record.path.startswith(target.path + b"/")
                or target.path.startswith(record.path + b"/")
            )
        ]

    def remove_file(self, target: Target, sequence: int | None = None) -> None:
        """See the contract."""
        with self._lock:
            found = self._files.get((target.user, target.path))
            if found is not None and sequence in (None, found.sequence):
                del self._files[target.user, target.path]

    def newest_sequence_in_the_way(self, target: Target) -> int:
        """See the contract."""
        with self._lock:
            return max((record.sequence for record in self._in_the_way(target)), default=0)

    def files(self, user: str | None = None) -> Iterator[FileRecord]:
        """See the contract."""
        with self._lock:
            every = sorted(self._files.items())
        for _, record in every:
            if user in (None, record.user):
                yield record

    def _file_bytes(self, user: str) -> int:
        with self._lock:
            return sum(record.size for record in self._files.values() if record.user == user)


class _MemoryUsers(_Locked):
    """Users and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._users: dict[str, float] = {}
        self._tokens: dict[str, TokenRecord] = {}

    def add_user(self, name: str, created: float) -> bool:
        """See the contract."""
        with self._lock:
            if name in self._users:
                return False
            self._users[name] = created
            return True

    def remove_user(self, name: str) -> bool:
        """See the contract."""
        with self._lock:
            self._tokens = {key: token for key, token in self._tokens.items() if token.user != name}
            return self._users.pop(name, None) is not None

    def users(self) -> list[str]:
        """See the contract."""
        with self._lock:
            return sorted(self._users)

    def add_token(self, token: TokenRecord) -> None:
        """See the contract."""
        with self._lock:
            if token.user not in self._users:
                raise LookupError(token.user)
            if token.token_id in self._tokens or self.token_user(token.digest) is not None:
                raise ValueError("this token is taken")
            self._tokens[token.token_id] = token

    def revoke_token(self, token_id: str) -> bool:
        """See the contract."""
        with self._lock:
            return self._tokens.pop(token_id, None) is not None

    def tokens(self, user: str | None = None) -> list[TokenRecord]:
        """See the contract."""
        with self._lock:
            found = [token for token in self._tokens.values() if user in (None, token.user)]
        return sorted(found, key=lambda token: (token.created, token.token_id))

    def token_user(self, digest: bytes) -> str | None:
        """See the contract."""
        with self._lock:
            return next((token.user for token in self._tokens.values() if token.digest == digest), None)


class MemoryCatalog(_MemorySessions, _MemoryFiles, _MemoryUsers):
    """The catalog contract over dictionaries, behind one lock."""

    def complete(self, session_id: str, file: FileRecord | None) -> bool:
        """See the contract."""
        with self._lock:
            if not self.move(session_id, ACTIVE_STATES, SessionState.COMPLETE):
                return False
            self._stored.pop(session_id, None)
            if file is not None:
                self.put_file(file)
            return True

    def complete_all(self, published: Sequence[tuple[str, FileRecord]]) -> None:
        """See the contract."""
        with self._lock:
            for session_id, file in published:
                if self.complete(session_id, file):
                    self.end(session_id)

    def usage(self, user: str) -> int:
        """See the contract."""
        with self._lock:
            waiting = sum(
                record.total_bytes
                for record in self._sessions.values()
                if record.user == user and record.state in ACTIVE_STATES
            )
            return waiting + self._file_bytes(user)

    def probe(self) -> None:
        """Memory is always ready."""

    def close(self) -> None:
        """Nothing is held."""
