"""What the queue takes and gives: changes and jobs. Frozen; a job is a picture of its row at one moment."""

from __future__ import annotations

import os

import msgspec

from chunkyd.files import Fingerprint, fingerprint_of_columns
from chunkyd.jobs.states import Reason, State, shown

COLUMNS = (
    "id, folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, reason, error, user_paused, priority,"
    " attempts, restarts, probes, next_attempt, bytes_done, bytes_sent, file_hash, session_id, session_url,"
    " resumed_times, resumed_from, claimed_by, claims, arrived, created, updated, finished, finish_number,"
    " session_version, hash_part"
)

_NO_TIME = -(1 << 100)  # nanoseconds; the times of files have 64 bits of seconds


class Change(msgspec.Struct, frozen=True):
    """A version of a file to be sent; `path` is below the folder."""

    folder: str
    path: bytes
    fingerprint: Fingerprint
    priority: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one file on its way. Times are wall-clock seconds; `path` is below the folder."""

    id: int
    folder: str
    path: bytes
    fingerprint: Fingerprint
    state: State
    reason: Reason | None
    error: str | None
    user_paused: bool  # this job alone; `shown_state` heeds the folder's and the general pause as well
    priority: int
    attempts: int  # in a row without progress
    restarts: int  # automatic new sessions
    probes: int  # looks in a row at what it is paused for
    next_attempt: float | None
    bytes_done: int
    bytes_total: int
    bytes_sent: int  # over the network, in all runs
    file_hash: str | None
    session_id: str | None
    session_url: str | None
    session_version: str | None  # what stands for the hash at the server, where the session began without it
    hash_part: str | None  # how far the hash was taken while the session's bytes were sent
    resumed_times: int
    resumed_from: int | None  # bytes the server had when it was last resumed
    claimed_by: str | None
    claims: int  # tells one claim from the next: a worker that lost its claim changes nothing any more
    arrived: float | None  # when the server's `complete` was recorded
    created: float
    updated: float
    finished: float | None
    finish_number: int | None  # grows with every job that ends: the order of the history
    shown_state: State
    shown_reason: Reason | None


class Overlay(msgspec.Struct, frozen=True):
    """What lies over the states of all jobs: the user's wider pauses, missing roots, and what holds the queue."""

    all_paused: bool = False
    paused_folders: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    held: Reason | None = None

    def shown(self, folder: str, state: State, reason: Reason | None, *, paused: bool) -> tuple[State, Reason | None]:
        """State and reason of a job as the user sees them; `paused` is the job's own flag."""
        return shown(
            state,
            reason,
            user_paused=paused or self.all_paused or folder in self.paused_folders,
            root_missing=folder in self.missing,
            held=self.held,
        )


def same_version(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether both stand for the same bytes; an inode of 0 says that inodes mean nothing there."""
    return one.same_version(other, stable_inodes=one.inode != 0 and other.inode != 0)


def no_longer_there(sent: Fingerprint) -> Fingerprint:
    """What is known of a file that was sent and is gone: its size. Its time is one that no file has.

    Another file may come under its name, and have its size and its time; where inodes mean nothing that would be the
    same version.
    """
    return msgspec.structs.replace(sent, mtime_ns=_NO_TIME)


def is_still_there(sent: Fingerprint) -> bool:
    """Whether what is known of a file that was sent is not that it is gone."""
    return sent.mtime_ns != _NO_TIME


def split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def join(directory: bytes, name: bytes) -> bytes:
    """The path again."""
    return directory + b"/" + name if directory else name


def job_of(row: tuple, overlay: Overlay) -> Job:  # type: ignore[type-arg]  # a row of SQLite, COLUMNS in order
    """A row as a job."""
    folder = os.fsdecode(row[1])
    state, reason = State(row[9]), Reason(row[10]) if row[10] is not None else None
    shown_state, shown_reason = overlay.shown(folder, state, reason, paused=bool(row[12]))
    return Job(
        id=row[0],
        folder=folder,
        path=join(row[2], row[3]),
        fingerprint=fingerprint_of_columns(row[4:9]),
        state=state,
        reason=reason,
        error=row[11],
        user_paused=bool(row[12]),
        priority=row[13],
        attempts=row[14],
        restarts=row[15],
        probes=row[16],
        next_attempt=row[17],
        bytes_done=row[18],
        bytes_total=row[6],
        bytes_sent=row[19],
        file_hash=row[20],
        session_id=row[21],
        session_url=row[22],
        resumed_times=row[23],
        resumed_from=row[24],
        claimed_by=row[25],
        claims=row[26],
        arrived=row[27],
        created=row[28],
        updated=row[29],
        finished=row[30],
        finish_number=row[31],
        session_version=row[32],
        hash_part=row[33],
        shown_state=shown_state,
        shown_reason=shown_reason,
    )
