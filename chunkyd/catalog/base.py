"""Where the server's records live: the contract. Every implementation passes `tests/catalog/contract.py`.

A method that changes something returns when the change would survive a power cut, and changes all or nothing.
A full disk raises `errors.StorageFull`, a broken database `errors.StateError`; nothing is half recorded.
Every method blocks and may be called from any thread. Times are wall-clock seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.protocol.ranges import Range


class SessionState(StrEnum):
    """Where a session stands. `dead` answers digest-mismatch; `expired` is a tombstone and answers 410."""

    RECEIVING = "receiving"
    COPYING = "copying"  # the user's own kept version is being copied and checked; falls back to receiving
    PUBLISHING = "publishing"  # the partial is synced and about to be renamed; `inode` says which it is
    COMPLETE = "complete"
    DEAD = "dead"
    EXPIRED = "expired"


ACTIVE_STATES = frozenset({SessionState.RECEIVING, SessionState.COPYING, SessionState.PUBLISHING})  # may yet publish


class TooLate(Exception):
    """The session of this initiate is over, this batch was published, or the client has wished for something newer."""


class Wish(msgspec.Struct, frozen=True):
    """Which of a client's wishes for a path an initiate is; `subject` is the digest of user, path and client."""

    subject: bytes
    order: int


class SessionRecord(msgspec.Struct, frozen=True):
    """One session. `sequence` grows with every session: of two on one path the greater wins.

    `file_version`: what stands for the hash in its requests, where it began without one; `file_hash` is empty then,
    until it is declared.
    """

    session_id: str
    sequence: int  # given by add_session; 0 before
    user: str
    file_hash: str
    total_bytes: int
    target: bytes  # the path it is published under
    state: SessionState
    created: float
    expires_at: float
    modified_ns: int | None = None
    mode: int | None = None
    reserved: bool = False  # the file system has set the space aside
    idempotency: bytes | None = None  # digest of user, key and body
    inode: int | None = None  # of the partial, from PUBLISHING on
    copy_of: bytes | None = None  # COPYING: the path of the kept version
    file_version: str | None = None

    @property
    def key(self) -> str:
        """What its requests carry beside its ID."""
        return self.file_hash if self.file_version is None else self.file_version

    @property
    def unnamed(self) -> bool:
        """Whether no client knows its ID: it lives as long as its publication, and not a second of its own."""
        return self.expires_at <= self.created


class StoredRange(msgspec.Struct, frozen=True):
    """Bytes that were synced, to be recorded; `expires_at` is the session's renewed deadline."""

    session_id: str
    start: int
    stop: int
    expires_at: float


class FileRecord(msgspec.Struct, frozen=True):
    """A published file: which version it is, and the fingerprint it had when that was checked."""

    user: str
    path: bytes
    file_hash: str
    size: int
    fingerprint: Fingerprint
    sequence: int  # of the session that published it
    published_at: float


class TokenRecord(msgspec.Struct, frozen=True):
    """A token as it is kept: `token_id` (short, public) names it, only its SHA-256 is stored."""

    token_id: str
    user: str
    digest: bytes
    created: float
    note: str = ""


class SessionCatalog(Protocol):
    """Sessions and their stored ranges."""

    def add_session(self, record: SessionRecord, wish: Wish | None = None) -> SessionRecord:
        """Record a new session; returned with its `sequence`, which no other session ever had or gets.

        Where a session with the same `idempotency` exists (not expired), that one is returned and nothing added.
        Raises TooLate where there was one, or a wish of the same subject with a greater order; ValueError where the
        session ID is taken. The wish is remembered until the session's deadline.
        """
        ...

    def add_sessions(
        self,
        records: Sequence[SessionRecord],
        *,
        wishes: Sequence[Wish] = (),
        key: bytes | None = None,
        until: float = 0.0,
    ) -> list[SessionRecord]:
        """`add_session` for new sessions without `idempotency`, in order, all in one transaction.

        It uses up their common `key`; key and wishes are remembered `until` then. Raises TooLate where the key was used
        up before, or for any of the wishes.
        """
        ...

    def session(self, session_id: str) -> SessionRecord | None:
        """The session, tombstones too."""
        ...

    def sessions(self, *, user: str | None = None, tombstones: bool = False) -> Iterator[SessionRecord]:
        """All sessions in order of `sequence`, streamed; one that changes meanwhile appears as it was or as it is."""
        ...

    def stored(self, session_id: str) -> list[Range]:
        """The recorded ranges: ascending, merged."""
        ...

    def record_stored(self, batch: Iterable[StoredRange]) -> None:
        """One durable transaction for all of them: merge the ranges, set the deadlines, in the order given.

        Sessions that are unknown, or no longer in one of ACTIVE_STATES, are skipped: nothing comes back to life.
        """
        ...

    def declare(self, session_id: str, file_hash: str) -> str | None:
        """Record the hash of a session that began without; the one that counts, which is the first that was declared.

        None, and nothing changes, where the session is unknown or in none of ACTIVE_STATES.
        """
        ...

    def move(
        self, session_id: str, before: Iterable[SessionState], after: SessionState, *, inode: int | None = None
    ) -> bool:
        """Compare and set; False where the state is none of `before`. DEAD forgets the stored ranges."""
        ...

    def complete(self, session_id: str, file: FileRecord | None) -> bool:
        """ACTIVE_STATES → COMPLETE and, in the same transaction, `put_file(file)`; False where it is in none of them.

        `file` is None where a later session already owns the path. The stored ranges are forgotten.
        """
        ...

    def complete_all(self, published: Sequence[tuple[str, FileRecord]]) -> None:
        """`complete` and `end` at once, for sessions nobody will ask for, in order, all in one transaction.

        A session that is in none of ACTIVE_STATES any more leaves no file.
        """
        ...

    def end(self, session_id: str) -> None:
        """Delete every trace of the session; the file's record stays.

        Its `idempotency` is used up, and remembered so until the deadline the session had.
        """
        ...

    def forget(self, session_id: str) -> None:
        """`end` a session that never was to be: its `idempotency` is as it was before."""
        ...

    def expire(self, session_id: str, tombstone_until: float) -> bool:
        """Turn the session into a tombstone: state EXPIRED, ranges forgotten, `expires_at` = its purge.

        Its `idempotency` is used up, and remembered so until then.

        False, and nothing changes, while it is PUBLISHING: its file may stand under its path already, and needs its
        record. In any other state it expires; an unknown session is fine. `end` purges it.
        """
        ...

    def due(self, now: float, limit: int) -> list[SessionRecord]:
        """Up to `limit` sessions with `expires_at` ≤ now, the longest due first, tombstones too, by an index."""
        ...

    def purge_wishes(self, now: float, limit: int) -> int:
        """Forget up to `limit` used up keys and wishes, remembered until ≤ now, by an index; returns how many."""
        ...

    def shift_deadlines(self, seconds: float) -> None:
        """Add to every deadline, and to every beginning (an age counts from it): the wall clock was stepped so far."""
        ...


class FileCatalog(Protocol):
    """Published files."""

    def file(self, target: Target) -> FileRecord | None:
        """What was published at this path."""
        ...

    def versions(self, user: str, file_hash: str, size: int, limit: int = 8) -> list[FileRecord]:
        """Where this user has this version, newest first, by an index."""
        ...

    def known_hashes(self, user: str, hashes: Sequence[str]) -> set[str]:
        """Those of which this user has a version; one question for many that he mostly does not have."""
        ...

    def put_file(self, file: FileRecord) -> None:
        """Record it; records in its way are removed: at the path itself, below it, and at any parent of it."""
        ...

    def remove_file(self, target: Target, sequence: int | None = None) -> None:
        """Forget it; gone already is fine. `sequence`: only the record of this one, and none that came after it."""
        ...

    def newest_sequence_in_the_way(self, target: Target) -> int:
        """The greatest `sequence` of records at the path, at a parent of it, or below it; 0 where there is none."""
        ...

    def files(self, user: str | None = None) -> Iterator[FileRecord]:
        """Every record, by user and path (as bytes), streamed; see `sessions`."""
        ...

    def knows_files(self) -> bool:
        """Whether all published files were recorded once: a catalog begun anew knows none, and says False.

        It says so until `set_files_known`: making the records anew from `Storage.walk` is the server's.
        """
        ...

    def set_files_known(self) -> None:
        """Every published file has its record by now."""
        ...

    def usage(self, user: str) -> int:
        """Bytes of the user's published files plus `total_bytes` of the user's sessions in ACTIVE_STATES."""
        ...


class UserCatalog(Protocol):
    """Users and tokens."""

    def add_user(self, name: str, created: float) -> bool:
        """False where the name is taken."""
        ...

    def remove_user(self, name: str) -> bool:
        """Forget the user and all tokens; files and sessions stay. False where there is none."""
        ...

    def users(self) -> list[str]:
        """By name."""
        ...

    def add_token(self, token: TokenRecord) -> None:
        """Raises LookupError where the user does not exist, ValueError where ID or digest are taken."""
        ...

    def revoke_token(self, token_id: str) -> bool:
        """False where there is none."""
        ...

    def tokens(self, user: str | None = None) -> list[TokenRecord]:
        """Oldest first."""
        ...

    def token_user(self, digest: bytes) -> str | None:
        """Whose token has this SHA-256."""
        ...


class Catalog(SessionCatalog, FileCatalog, UserCatalog, Protocol):
    """All records of one server, in one place."""

    def probe(self) -> None:
        """Raise StorageFull or StateError where nothing can be recorded now (readiness)."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...
