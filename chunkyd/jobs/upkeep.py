"""What keeps the table small and true: old history is dropped, vanished sources are given up."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from chunkyd.checkpoints import reached
from chunkyd.files import signed
from chunkyd.jobs.core import Core, one_of
from chunkyd.jobs.job import Job, split
from chunkyd.jobs.states import IDLE, Reason, State
from chunkyd.jobs.tables import Row

KEEP_SECONDS = 90 * 86400.0
KEEP_ROWS = 1_000_000

_AT_ONCE = 1000
_OLD = (
    "SELECT id FROM jobs WHERE finished IS NOT NULL AND finish_number <= ? AND claimed_by IS NULL"
    " ORDER BY finish_number LIMIT ?"
)
# Two questions, since SQLite looks at every row for min and max in one.
_ENDS = (
    "SELECT (SELECT min(finish_number) FROM jobs WHERE finished IS NOT NULL),"
    " (SELECT max(finish_number) FROM jobs WHERE finished IS NOT NULL)"
)
_STILL = f"finished IS NULL AND claimed_by IS NULL AND arrived IS NULL AND state IN {one_of(IDLE | {State.FAILED})}"


# By the index of what is ready, so that a million jobs of the right priority cost nothing.
_ANOTHER_PRIORITY = (
    "SELECT 1 FROM jobs WHERE state = 'queued' AND user_paused = 0 AND blocked_by IS NULL AND folder = ? AND {} LIMIT 1"
)
_LOWER, _HIGHER = _ANOTHER_PRIORITY.format("priority < ?"), _ANOTHER_PRIORITY.format("priority > ?")


class Upkeep(Core):
    """Called now and then by the daemon, and by the watcher's findings."""

    def source_gone(
        self, folder: str, path: bytes, *, below: bool = True, devices: Collection[int] | None = None
    ) -> int:
        """A file or a directory is no longer there: give up the jobs at this path and `below`; how many were.

        Not those that workers have, which find out by themselves, nor those that have arrived. `devices`: only those
        whose files were on one of these.
        """
        wanted = None if devices is None else {signed(device) for device in devices}
        now = self._clock.wall()
        with self._tables.transaction():
            rows = self._standing(folder, path, below=below)
            gone = {job_id for job_id, device in rows if wanted is None or device in wanted}
            for job_id in gone:
                self._end(job_id, State.CANCELLED, Reason.SOURCE_GONE, now)
        if gone:
            reached("jobs.source-gone.noticed")
            self.on_change()
        return len(gone)

    def standing(self, folder: str, path: bytes, *, below: bool = True) -> Iterator[Job]:
        """The jobs at this path and `below` that could be given up."""
        for job_id in dict.fromkeys(job_id for job_id, _ in self._standing(folder, path, below=below)):
            if (job := self.job(job_id)) is not None:
                yield job

    def _standing(self, folder: str, path: bytes, *, below: bool) -> list[Row]:
        """Their numbers and devices."""
        directory, name = split(path)
        questions: list[tuple[str, tuple[object, ...]]] = [
            ("directory = ? AND name = ?", (directory, name)),
            ("directory = ?", (path,)),
            ("directory > ? AND directory < ?", (path + b"/", path + b"0")),  # "0" is the byte after "/"
        ]
        return [
            row
            for question, values in (questions[: None if below else 1] if path else [("1", ())])
            for row in self._tables.rows(
                f"SELECT id, device FROM jobs WHERE folder = ? AND {question} AND {_STILL}",  # noqa: S608  # our words
                (os.fsencode(folder), *values),
            )
        ]

    def last_number(self) -> int:
        """The number of the last job that was ever queued; the next ones have higher ones, also after a prune."""
        row = self._tables.one("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
        return int(row[0]) if row is not None else 0

    def set_priority(self, folder: str, priority: int) -> int:
        """The folder's priority was changed: its unfinished jobs have the new one too; how many had another."""
        with self._tables.transaction():
            changed = self._tables.execute(
                "UPDATE jobs SET priority = ? WHERE folder = ? AND finished IS NULL AND priority != ?",
                (priority, os.fsencode(folder), priority),
            )
        if changed:
            self.on_change()
        return changed

    def has_another_priority(self, folder: str, priority: int) -> bool:
        """Whether the next jobs of a folder have another priority than this: it was changed while nothing ran."""
        values = (os.fsencode(folder), priority)
        return any(self._tables.one(question, values) is not None for question in (_LOWER, _HIGHER))

    def forget_endings(self, url: str) -> int:
        """Sessions at other servers are no longer to be ended: nobody speaks to those any more, and they expire."""
        with self._tables.transaction():
            return self._tables.execute("DELETE FROM endings WHERE url != ?", (url,))

    def prune(self, keep_seconds: float = KEEP_SECONDS, keep_rows: int = KEEP_ROWS) -> int:
        """Drop ended jobs that are older, or beyond so many; what was sent stays known. How many were dropped."""
        last = self._last_to_drop(self._clock.wall() - keep_seconds, keep_rows)
        dropped = 0
        while True:
            with self._tables.transaction():
                old = self._tables.rows(_OLD, (last, _AT_ONCE))
                self._tables.execute_many("DELETE FROM jobs WHERE id = ?", old)
            dropped += len(old)
            if len(old) < _AT_ONCE:
                return dropped

    def _last_to_drop(self, before: float, keep_rows: int) -> int:
        """Ends are numbered in their order, so the older half is found without looking at every row."""
        row = self._tables.one(_ENDS)
        if row is None or row[0] is None:
            return 0
        low, last = int(row[0]) - 1, int(row[1])
        high = last
        while low < high:
            middle = (low + high + 1) // 2
            found = self._tables.one(
                "SELECT finished FROM jobs WHERE finished IS NOT NULL AND finish_number >= ?"
                " ORDER BY finish_number LIMIT 1",
                (middle,),
            )
            if found is not None and found[0] < before:
                low = middle
            else:
                high = middle - 1
        return max(low, last - keep_rows)
