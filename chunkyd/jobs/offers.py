"""From settled changes to queued jobs, and what is known of a folder's files.

A version that is queued, failed, sent or cancelled by the user is not queued again. A newer version of a file whose job
has not arrived takes its place; one that has arrived is finished first, at once, and the newer one waits for that.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from operator import itemgetter

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.files import Fingerprint, fingerprint_columns, fingerprint_of_columns
from chunkyd.jobs.core import Core
from chunkyd.jobs.job import Change, same_version, split
from chunkyd.jobs.states import Reason, State

_OPEN = (
    "SELECT id, device, inode, size, mtime_ns, ctime_ns, user_paused, arrived, state FROM jobs"
    " WHERE folder = ? AND directory = ? AND name = ? AND finished IS NULL"
)
_KNOWN = (
    "SELECT device, inode, size, mtime_ns, ctime_ns FROM known"
    " WHERE folder = ? AND directory = ? AND name = ? AND sent < 2"
)
_INSERT = (
    "INSERT INTO jobs (folder, directory, name, device, inode, size, mtime_ns, ctime_ns, state, user_paused, priority,"
    " created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)"
)
_ALL_ROWS = -1
_MOST_ROWS = 2000  # of directories that are only asked for ahead; so much memory, however many files there are
_SINCE = itemgetter(7)
_SENT_SIZE = "SELECT 1 FROM known WHERE size = ? AND sent > 0 AND size > 8388608 LIMIT 1"  # as its index has it
_FINISH_NOW = (
    "UPDATE jobs SET state = 'queued', reason = NULL, next_attempt = NULL"
    " WHERE id = ? AND arrived IS NOT NULL AND (state = 'waiting' OR state = 'paused' AND reason = 'source')"
)
_BACK = "UPDATE jobs SET state = 'queued', reason = NULL WHERE id = ? AND state = 'paused' AND reason = 'root-missing'"


class _OpenJob(msgspec.Struct, frozen=True):
    id: int
    fingerprint: Fingerprint
    user_paused: int
    replaceable: bool


class Offers(Core):
    """The queue's entrance."""

    def offer(self, changes: Sequence[Change]) -> int:
        """Queue what is new, in one transaction; how many were."""
        latest = {(change.folder, change.path): change for change in changes}
        now = self._clock.wall()
        with self._tables.transaction():
            queued = sum(self._offer(change, now) for change in latest.values())
        if queued:
            reached("jobs.offered")
            self.on_change()
        return queued

    def _offer(self, change: Change, now: float, *, user_paused: bool = False) -> bool:
        place = (os.fsencode(change.folder), *split(change.path))
        there = self._open_jobs(place)
        if there and self._is_back(there[-1], change.fingerprint):
            return True
        if self._is_known(place, change.fingerprint, there):
            return False
        paused = int(user_paused)
        for job in there:
            if job.replaceable:
                paused |= job.user_paused
                self._end(job.id, State.SUPERSEDED, Reason.CHANGED, now)
            else:
                self._tables.execute(_FINISH_NOW, (job.id,))
        self._tables.execute(
            _INSERT, (*place, *fingerprint_columns(change.fingerprint), paused, change.priority, now, now)
        )
        return True

    def _is_back(self, job: _OpenJob, found: Fingerprint) -> bool:
        """Whether a file that went away with its root is there again; its job then goes on."""
        return same_version(job.fingerprint, found) and bool(self._tables.execute(_BACK, (job.id,)))

    def _open_jobs(self, place: tuple[bytes, bytes, bytes]) -> list[_OpenJob]:
        rows = sorted(self._tables.rows(_OPEN, place))  # by number; SQLite would take the wrong index to sort them
        return [
            _OpenJob(row[0], fingerprint_of_columns(row[1:6]), row[6], row[7] is None or row[8] == State.FAILED)
            for row in rows
        ]

    def _is_known(self, place: tuple[bytes, bytes, bytes], found: Fingerprint, there: list[_OpenJob]) -> bool:
        """The newest job on the path decides; where there is none, what was sent or cancelled last."""
        if there:
            return same_version(there[-1].fingerprint, found)
        row = self._tables.one(_KNOWN, place)
        return row is not None and same_version(fingerprint_of_columns(row), found)

    def versions(self, folder: str, directories: Sequence[bytes]) -> dict[bytes, dict[bytes, Fingerprint]]:
        """Directory → name → version that is not to be queued again, of the files directly in these directories.

        Of the first one in any case, of the others only while all have few files.
        """
        first, place = directories[0], os.fsencode(folder)
        rows = self._tables.rows(_here(len(directories)), (place, *directories, _MOST_ROWS))
        if len(rows) == _MOST_ROWS:
            cut = rows[-1][0]  # the rest of this directory, and all after it, are not there
            directories = [directory for directory in directories if directory < cut]
            rows = [row for row in rows if row[0] < cut]
            if first >= cut:
                directories.append(first)
                rows += self._tables.rows(_here(1), (place, first, _ALL_ROWS))
        found: dict[bytes, dict[bytes, Fingerprint]] = {directory: {} for directory in directories}
        for row in sorted(rows, key=_SINCE, reverse=True):
            found[row[0]][row[1]] = fingerprint_of_columns(row[2:7])
        return found

    def sent_size(self, size: int) -> bool:
        """Whether a file of exactly this size, of more than 8 MiB, was sent before, from wherever."""
        return self._tables.one(_SENT_SIZE, (size,)) is not None

    def known_hash(self, folder: str, path: bytes, found: Fingerprint) -> str | None:
        """The hash taken of exactly this version of this file, if one was."""
        place = (os.fsencode(folder), *split(path))
        for source in ("jobs", "known"):
            rows = self._tables.rows(
                f"SELECT device, inode, size, mtime_ns, ctime_ns, file_hash FROM {source}"  # noqa: S608  # our tables
                " WHERE folder = ? AND directory = ? AND name = ? AND file_hash IS NOT NULL"
                + (" AND finished IS NULL" if source == "jobs" else ""),
                place,
            )
            for row in rows:
                if same_version(fingerprint_of_columns(row[:5]), found):
                    return str(row[5])
        return None


@functools.cache
def _here(directories: int) -> str:
    """What is known of files in so many directories, by directory.

    In one statement, since a scan asks for every folder. Sorted by the last column, the greatest first, what decides of
    a name comes last: what is known, what has arrived, what is on its way. Files that went away with their root are not
    counted: found again by a scan, they are offered, and their jobs go on.
    """
    here = "folder = ?1 AND directory IN (" + ", ".join(f"?{number + 2}" for number in range(directories)) + ")"
    columns = "directory, name, device, inode, size, mtime_ns, ctime_ns"
    return (
        f"SELECT {columns}, 9e999 AS since FROM known WHERE {here} AND sent < 2"  # noqa: S608  # our own words
        f" UNION ALL SELECT {columns}, ifnull(arrived, 0) FROM jobs WHERE {here}"
        " AND finished IS NULL AND ifnull(reason, '') != 'root-missing'"
        f" ORDER BY directory LIMIT ?{directories + 2}"
    )
