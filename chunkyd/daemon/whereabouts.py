"""Where a file is that is not where it was: deleted, or on a disk or under a root that is away.

What is elsewhere pauses its job until its folder is back. The watcher tells of that, unless a root was away so briefly
that only a worker saw it, or a disk below it was: such folders are looked at until they change, then their jobs go on.
"""

from __future__ import annotations

import contextlib
import os
import threading

import msgspec

from chunkyd.clock import Clock
from chunkyd.daemon.folders import Folders
from chunkyd.daemon.homes import Homes, Root, root_at
from chunkyd.files import fingerprint, lstat_below
from chunkyd.jobs.job import Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason
from chunkyd.watch.roots import mounts_below

_ELSEWHERE = "the folder it was found in is not there"
_MISSED = "the file was not there for a moment"
_LOOK_SECONDS = 2.0


class _Sight(msgspec.Struct, frozen=True):
    """What was to be seen at a folder's path."""

    root: Root | None
    mounts: tuple[bytes, ...]


def _sight(path: str) -> _Sight:
    return _Sight(root_at(path), mounts_below(os.fsencode(path)))


class Whereabouts:
    """Asked by whoever finds a file missing."""

    def __init__(self, queue: Queue, folders: Folders, homes: Homes, clock: Clock) -> None:
        self._queue = queue
        self._folders = folders
        self._homes = homes
        self._clock = clock
        self._lock = threading.Lock()
        self._strange: dict[str, _Sight] = {}
        self._next_look = 0.0

    def is_deleted(self, job: Job) -> bool:
        """Whether a job's missing file was deleted.

        Who missed it may have looked at another root, that was there for a moment: so the file is looked at once more,
        and its root before and after.
        """
        folder = self._folders.get(job.folder)
        if folder is None:
            return False
        root = self._homes.seen(job.folder, folder.path)
        if root is None or not self._homes.is_home(job.folder, job.id, root):
            return False
        if self._is_there(job) or root_at(folder.path) != root:
            return False
        if self._is_on_root(job):
            return True
        return _device_of_the_way(folder.path, job.path) != root.device  # a disk is mounted there, and has it no more

    def _is_on_root(self, job: Job) -> bool:
        """Whether its file was on the root's own disk, as far as is known: on none that is mounted below the root."""
        devices = self._homes.devices(job.folder, job.id)
        return not devices or job.fingerprint.device in devices

    def _is_there(self, job: Job) -> bool:
        """Whether the job's version stands at its path."""
        root = self._folders.root(job.folder)
        with contextlib.suppress(OSError):
            return root is not None and fingerprint(lstat_below(root, job.path)).same_version(job.fingerprint)
        return False

    def end_or_hold(self, job: Job) -> None:
        """A worker misses its job's file: the job is given up, or waits for its folder."""
        if not self.hold_if_elsewhere(job):
            self._queue.gone(job)

    def hold_if_elsewhere(self, job: Job) -> bool:
        """Whether the job now waits, for its folder or for a while: its file was missed, but was not deleted."""
        folder = self._folders.get(job.folder)
        seen = _sight(folder.path) if folder is not None else _Sight(None, ())  # before the decision that rests on it
        if self.is_deleted(job):
            return False
        if self._is_there(job):  # its root was another, or what can be seen there cannot be opened
            self._queue.wait(job, _MISSED, paused_for=Reason.SOURCE)
            return True
        self._queue.pause(job, Reason.ROOT_MISSING, _ELSEWHERE)
        # Where it was at home at the sight, and is not deleted, the root has changed since, and may be back.
        changed = self._homes.is_home(job.folder, job.id, seen.root) and self._is_on_root(job)
        with self._lock:  # after the pause: who finds a change lets go on what is paused by then
            changed = self._strange.setdefault(job.folder, seen) != seen or changed
            if changed:
                del self._strange[job.folder]
        if changed:
            self._queue.root_back(job.folder)
        return True

    def due(self) -> bool:
        """Whether it is time to look at such folders again."""
        return bool(self._strange) and self._clock.monotonic() >= self._next_look

    def wait(self) -> float:
        """Seconds until then; infinite where there are none."""
        return self._next_look - self._clock.monotonic() if self._strange else float("inf")

    def look(self) -> None:
        """Jobs of a folder whose root is no longer what it was when a worker missed its file go on."""
        self._next_look = self._clock.monotonic() + _LOOK_SECONDS
        with self._lock:
            strange = dict(self._strange)
        for name, before in strange.items():
            folder = self._folders.get(name)
            if folder is not None and _sight(folder.path) == before:
                continue
            with self._lock:
                self._strange.pop(name, None)
            if folder is not None:
                self._homes.seen(name, folder.path)
                self._queue.root_back(name)


def _device_of_the_way(root: str, path: bytes) -> int:
    """The device of the last folder on the way to a path below a root that is there; -1 where even the root is gone."""
    way, device = os.fsencode(root), -1
    for part in [b"", *path.split(b"/")[:-1]]:
        way = os.path.join(way, part)
        try:
            device = os.lstat(way).st_dev if part else os.stat(way).st_dev
        except OSError:
            break
    return device
