"""Who works on what: claims, what is in their way, and their return after a crash.

A claim belongs to one run of the daemon, and `claims` counts them: a worker that lost its claim changes nothing. A job
that must wait for another (an older one on its path, on a folder above it or a file below it; or any that runs there)
remembers which, and is looked at again when that one ends: a blocked job costs nothing until then.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.jobs.core import Core
from chunkyd.jobs.job import Job, join
from chunkyd.jobs.states import State
from chunkyd.jobs.tables import Row

_AT_ONCE = 500  # rows changed by one claim at most: it stays short whatever comes due
_STEP_SECONDS = 2.0  # the wall clock's drift against the monotonic one that counts as a step

_DUE = "SELECT id FROM jobs WHERE next_attempt <= ? ORDER BY next_attempt LIMIT ?"
_WAKE = "UPDATE jobs SET state = 'queued', reason = NULL, next_attempt = NULL WHERE id = ?"
_FIRST = (
    "SELECT priority, id, folder, directory, name FROM jobs"
    " WHERE state = 'queued' AND user_paused = 0 AND blocked_by IS NULL AND folder = ?"
    " ORDER BY priority DESC, id LIMIT 1"
)
# A window over the ready ones: what is wanted is looked for among them, however many others stand before it.
_LIKE = (
    "SELECT id, directory, name, size FROM ("
    "SELECT id, directory, name, size, session_id, arrived, attempts FROM jobs"
    " WHERE state = 'queued' AND user_paused = 0 AND blocked_by IS NULL AND folder = ? AND priority = ?"
    " ORDER BY id LIMIT ?"
    ") WHERE size <= ? AND session_id IS NULL AND arrived IS NULL AND attempts = 0 ORDER BY id"
)
_WINDOW = 2000
_RUNNING_ELSEWHERE = "SELECT id, folder, directory, name FROM jobs WHERE claimed_by IS NOT NULL"
# "+id": an index for the order of numbers would have to look at every older job.
_OLDER = (
    "SELECT id FROM jobs WHERE folder = ? AND {place} AND finished IS NULL AND state != 'failed' AND +id < ? LIMIT 1"
)
_OLDER_HERE = _OLDER.format(place="directory = ? AND name = ?")
_OLDER_IN = _OLDER.format(place="directory = ?")
_OLDER_BELOW = _OLDER.format(place="directory > ? AND directory < ?")
_BLOCK = "UPDATE jobs SET blocked_by = ? WHERE id = ?"
_CLAIM = (
    "UPDATE jobs SET state = iif(arrived IS NULL, 'hashing', 'finishing'), reason = NULL, error = NULL,"
    " claimed_by = ?, claims = claims + 1, updated = ?,"
    " resumed_from = iif(session_id IS NULL OR arrived IS NOT NULL, resumed_from, bytes_done),"
    " resumed_times = resumed_times + (session_id IS NOT NULL AND arrived IS NULL)"
    " WHERE id = ? AND state = 'queued' AND claimed_by IS NULL"
)
_TAKE_BACK = (
    "UPDATE jobs SET claimed_by = NULL, updated = ?,"
    " state = iif(state IN ('hashing', 'uploading', 'finishing'), 'queued', state)"
    " WHERE claimed_by IS NOT NULL AND claimed_by != ?"
)
_COUNT_STALE = (
    "SELECT count(*), count(CASE WHEN session_id IS NOT NULL AND arrived IS NULL THEN 1 END), count(arrived) FROM jobs"
    " WHERE claimed_by IS NOT NULL AND claimed_by != ? AND finished IS NULL"
)


class Recovered(msgspec.Struct, frozen=True):
    """What start-up took back from a run that did not end by itself."""

    jobs: int
    resumable: int  # of them with a session under way
    arrived: int  # of them with only their finish left


class _Busy:
    """Paths of one folder that are worked on; asked in steps of a path's depth, not of their number."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths: set[bytes] = set()
        self._above: set[bytes] = set()
        for path in paths:
            self.add(path)

    def add(self, path: bytes) -> None:
        self._paths.add(path)
        self._above.update(_above(path))

    def is_in_the_way(self, path: bytes) -> bool:
        """Whether the path itself, a folder above it or something below it is worked on."""
        return path in self._paths or path in self._above or not self._paths.isdisjoint(_above(path))


def _above(path: bytes) -> Iterator[bytes]:
    while (slash := path.rfind(b"/")) > 0:
        path = path[:slash]
        yield path


class Claims(Core):
    """Claiming and taking back."""

    def recover(self, run_id: str) -> Recovered:
        """Take back every claim of other runs, with session and progress; no attempt is charged.

        A deadline further away than any wait lasts was set by a clock that has been put back since: it is brought near.
        """
        now = self._clock.wall()
        with self._tables.transaction(durable=True):
            row = self._tables.one(_COUNT_STALE, (run_id,))
            assert row is not None  # a count always answers
            self._tables.execute(_TAKE_BACK, (now, run_id))
            nearest = now + self.retry_settings.max
            self._tables.execute("UPDATE jobs SET next_attempt = ? WHERE next_attempt > ?", (nearest, nearest))
        reached("jobs.recovered")
        return Recovered(*row)

    def claim(self, owner: str, folders: Collection[str]) -> Job | None:
        """The next job for a worker: highest priority, then oldest; None where nothing is ready.

        `folders` are the configured ones: jobs of others stay where they are. The job is then `hashing`, or
        `finishing` where the file has arrived already.
        """
        if self._holds.held() is not None:
            return None
        self._follow_clock()
        while True:
            with self._tables.transaction():
                found = self._claim(owner, folders)
            if found:
                reached("jobs.claimed")
            if found is not None:
                return self.job(found) if found else None

    def claim_with(self, first: Job, *, jobs: int, size: int, total: int) -> list[Job]:
        """More jobs for the worker that has just claimed `first`: of its folder and priority, never begun before.

        At most `jobs` of them, none larger than `size` bytes, and so many that they are `total` bytes together, or just
        more.
        """
        with self._tables.transaction():
            taken = list(self._claim_with(first, jobs, size, total))
        if taken:
            reached("jobs.group.claimed")
        numbers = ", ".join(map(str, taken))
        return self._jobs(f"WHERE id IN ({numbers}) ORDER BY id") if taken else []

    def _claim_with(self, first: Job, most: int, size: int, total: int) -> Iterator[int]:
        now, folder = self._clock.wall(), os.fsencode(first.folder)
        if self._pauses(first.folder):
            return
        busy = _Busy(join(*row[2:]) for row in self._tables.rows(_RUNNING_ELSEWHERE) if row[1] == folder)
        for job_id, directory, name, bytes_ in self._tables.rows(_LIKE, (folder, first.priority, _WINDOW, size)):
            if not most or total <= 0:
                return
            path = join(directory, name)
            if busy.is_in_the_way(path) or self._older_in_the_way(job_id, folder, directory, name):
                continue  # claimed by itself, or blocked, when its turn comes
            self._tables.execute(_CLAIM, (first.claimed_by, now, job_id))
            busy.add(path)
            most, total = most - 1, total - bytes_
            yield job_id

    def _pauses(self, folder: str) -> bool:
        overlay = self.overlay()
        return overlay.all_paused or folder in overlay.paused_folders or folder in overlay.missing

    def _claim(self, owner: str, folders: Collection[str]) -> int | None:
        """The number of the job that was claimed, 0 where none is ready, None where it is worth trying again."""
        now = self._clock.wall()
        self._wake(now)
        ready = self._ready_folders(folders)
        running = self._tables.rows(_RUNNING_ELSEWHERE)
        for _ in range(_AT_ONCE):
            row = self._first(ready)
            if row is None:
                return 0
            _, job_id, *place = row
            blocker = self._running_in_the_way(place, running) or self._older_in_the_way(job_id, *place)
            if blocker is None:
                self._tables.execute(_CLAIM, (owner, now, job_id))
                return int(job_id)
            self._tables.execute(_BLOCK, (blocker, job_id))
        return None

    def _wake(self, now: float) -> None:
        due = self._tables.rows(_DUE, (now, _AT_ONCE))
        if due:
            self._tables.execute_many(_WAKE, due)

    def _ready_folders(self, folders: Collection[str]) -> list[bytes]:
        overlay = self.overlay()
        if overlay.all_paused:
            return []
        return [os.fsencode(folder) for folder in set(folders) - overlay.paused_folders - overlay.missing]

    def _first(self, folders: list[bytes]) -> Row | None:
        firsts = [row for folder in folders if (row := self._tables.one(_FIRST, (folder,))) is not None]
        return max(firsts, key=lambda row: (row[0], -row[1]), default=None)

    def _running_in_the_way(self, place: list[bytes], running: list[Row]) -> int | None:
        folder, path = place[0], join(place[1], place[2])
        for job_id, other_folder, directory, name in running:
            other = join(directory, name)
            if folder == other_folder and (
                path == other or path.startswith(other + b"/") or other.startswith(path + b"/")
            ):
                return int(job_id)
        return None

    def _older_in_the_way(self, job_id: int, folder: bytes, directory: bytes, name: bytes) -> int | None:
        path = join(directory, name)
        questions: list[tuple[str, tuple[object, ...]]] = [
            (_OLDER_HERE, (folder, directory, name, job_id)),
            (_OLDER_IN, (folder, path, job_id)),
            (_OLDER_BELOW, (folder, path + b"/", path + b"0", job_id)),  # "0" is the byte after "/"
        ]
        while directory:
            above, _, folder_name = directory.rpartition(b"/")
            questions.append((_OLDER_HERE, (folder, above, folder_name, job_id)))
            directory = above
        for question, values in questions:
            row = self._tables.one(question, values)
            if row is not None:
                return int(row[0])
        return None

    def next_due(self) -> float | None:
        """When a waiting job comes due (wall time): nobody need look earlier, unless `on_change` says so.

        None too while the whole queue is held: then `held().next_probe` is the time.
        """
        if self._holds.held() is not None:
            return None
        self._follow_clock()
        row = self._tables.one("SELECT min(next_attempt) FROM jobs WHERE next_attempt IS NOT NULL")
        return row[0] if row else None

    def _follow_clock(self) -> None:
        """A step of the wall clock moves all deadlines with it: what was to wait ten seconds still does."""
        with self._stepping:
            step = self._clock.wall() - self._clock.monotonic() - self._drift
            if abs(step) < _STEP_SECONDS:
                return
            before = self._drift
            try:
                with self._tables.transaction():
                    self._tables.execute(
                        "UPDATE jobs SET next_attempt = next_attempt + ? WHERE next_attempt IS NOT NULL", (step,)
                    )
                    self._drift += step  # in the transaction: whoever sets a deadline next counts with it
            except BaseException:
                self._drift = before
                raise

    def unwanted(self) -> set[int]:
        """Claimed jobs whose workers should leave: ended by others, or paused by the user."""
        overlay = self.overlay()
        rows = self._tables.rows("SELECT id, folder, state, user_paused FROM jobs WHERE claimed_by IS NOT NULL")
        return {
            row[0]
            for row in rows
            if overlay.shown(os.fsdecode(row[1]), State(row[2]), None, paused=bool(row[3]))[0] is State.PAUSED
            or State(row[2]) in (State.CANCELLED, State.SUPERSEDED)
        }

    def running(self) -> list[Job]:
        """The jobs that workers have now."""
        return self._jobs("WHERE claimed_by IS NOT NULL AND finished IS NULL ORDER BY id")
