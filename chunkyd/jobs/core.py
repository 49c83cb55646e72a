"""What all parts of the queue stand on: the tables, the clock, the holds, and the few statements they share."""

from __future__ import annotations

import functools
import os
import random
import threading
from collections.abc import Callable, Iterable

from chunkyd.clock import Clock
from chunkyd.files import Fingerprint, fingerprint_columns
from chunkyd.jobs.holds import Holds
from chunkyd.jobs.job import COLUMNS, Job, Overlay, job_of, split
from chunkyd.jobs.states import Reason, State, before
from chunkyd.jobs.tables import Tables
from chunkyd.settings import Retry

EVERYTHING = b""  # in `pauses`, beside folders: no folder's name is empty

_SELECT_JOB = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608  # our own columns
_END = (
    "UPDATE jobs SET state = ?, reason = ?, finished = ?, updated = ?, next_attempt = NULL, blocked_by = NULL"
    " WHERE id = ? AND finished IS NULL AND state IN {}"
)
_END_SESSION = (
    "INSERT OR IGNORE INTO endings SELECT session_url, session_id, coalesce(session_version, file_hash, '') FROM jobs"
    " WHERE id = ? AND session_id IS NOT NULL"
)
# `sent` in `known`: 0 cancelled by the user, 1 sent; 2 sent as well, and offered again when it is found again.
# A version that was sent need not be what the server has: this job may have put its own in its place.
_SENT_NO_MORE = (
    "UPDATE known SET sent = 2 WHERE sent = 1 AND (folder, directory, name) ="
    " (SELECT folder, directory, name FROM jobs WHERE id = ? AND claims > 0)"
)
_KNOW = "INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def nothing() -> None:
    """Nobody is to be told."""


class Core:
    """The base of `queue.Queue` and of the read-only view; see there."""

    def __init__(
        self,
        tables: Tables,
        clock: Clock,
        retry: Retry = Retry(),  # noqa: B008  # frozen
        *,
        random: Callable[[], float] = random.random,
        on_change: Callable[[], None] = nothing,
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._random = random
        self._holds = Holds(random)
        self._stepping = threading.Lock()
        self._drift = clock.wall() - clock.monotonic()  # between the clocks; changed together with all deadlines
        self.retry_settings = retry  # replaced by a reload
        self.on_change = on_change  # called after a commit, by any thread: look for work, and for work to be stopped

    @functools.cached_property
    def identity(self) -> str:
        """The name of this job table: another, begun anew, counts its jobs from one again."""
        row = self._tables.one("SELECT id FROM identity")
        assert row is not None  # made with the table
        return str(row[0])

    def close(self) -> None:
        """Close the table; whoever still uses it gets a StateError."""
        self._tables.close()

    def overlay(self) -> Overlay:
        """What lies over the states of all jobs now."""
        paused = {row[0] for row in self._tables.rows("SELECT folder FROM pauses")}
        held = self._holds.held()
        return Overlay(
            all_paused=EVERYTHING in paused,
            paused_folders=frozenset(os.fsdecode(folder) for folder in paused - {EVERYTHING}),
            missing=self._holds.missing(),
            held=held.reason if held else None,
        )

    def job(self, job_id: int) -> Job | None:
        """The job of this number, whatever its state."""
        row = self._tables.one(_SELECT_JOB, (job_id,))
        return job_of(row, self.overlay()) if row else None

    def _jobs(self, conditions: str, values: Iterable[object] = ()) -> list[Job]:
        overlay = self.overlay()
        rows = self._tables.rows(f"SELECT {COLUMNS} FROM jobs {conditions}", values)  # noqa: S608  # our own words
        return [job_of(row, overlay) for row in rows]

    # Inside a transaction

    def _due_in(self, seconds: float) -> float:
        """A deadline in wall time, as all deadlines count it: a step that nobody has noticed yet moves this one too."""
        return self._clock.monotonic() + self._drift + seconds

    def _end(self, job_id: int, state: State, reason: Reason | None, now: float) -> bool:
        """End an open job; its session is remembered as one to be ended at the server, whoever still works on it."""
        changed = self._tables.execute(_END.format(one_of(before(state))), (state, reason, now, now, job_id))
        if changed:
            self._tables.execute(_END_SESSION, (job_id,))
            self._tables.execute(_SENT_NO_MORE, (job_id,))
        return bool(changed)

    def _know(self, job: Job, found: Fingerprint, now: float, *, sent: bool) -> None:
        """This version is not queued again."""
        directory, name = split(job.path)
        self._tables.execute(
            _KNOW,
            (os.fsencode(job.folder), directory, name, *fingerprint_columns(found), job.file_hash, int(sent), now),
        )


def one_of(states: Iterable[State]) -> str:
    """States as a list in SQL, written out: bound values would keep SQLite from its partial indexes."""
    return "(" + ", ".join(sorted(f"'{state}'" for state in states)) + ")"


def text(error: str | None) -> str | None:
    """An error as it can be kept: paths in it may hold what is not Unicode."""
    return None if error is None else error.encode("utf-8", "backslashreplace").decode()
