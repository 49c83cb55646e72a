"""From the watcher to the job table: settled changes become jobs, and what is known is told to the watcher."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from chunkyd.daemon.after import give_back, hiding_job, is_hidden_for
from chunkyd.daemon.folders import Folders
from chunkyd.daemon.homes import Homes
from chunkyd.daemon.whereabouts import Whereabouts
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Change, Job
from chunkyd.jobs.queue import Queue
from chunkyd.protocol.paths import readable
from chunkyd.watch.shapes import Settled

_LOG = logging.getLogger("chunkyd.daemon")
_PAGE = 1000


class Intake:
    """The watcher's `Knowledge` and its `Sink`, over the queue."""

    def __init__(self, queue: Queue, folders: Folders, homes: Homes, whereabouts: Whereabouts) -> None:
        self._queue = queue
        self._folders = folders
        self._homes = homes
        self._whereabouts = whereabouts

    def versions(self, folder: str, directories: Sequence[bytes]) -> Mapping[bytes, Mapping[bytes, Fingerprint]]:
        """Which versions of the files in these directories need not be reported."""
        return self._queue.versions(folder, directories)

    def settled(self, changes: Sequence[Settled]) -> None:
        """Queue them, in one transaction."""
        for folder in {change.folder for change in changes}:
            self._note_home(folder)
        self._queue.offer([self._change(change) for change in changes])

    def _change(self, change: Settled) -> Change:
        folder = self._folders.get(change.folder)
        return Change(change.folder, change.path, change.fingerprint, folder.priority if folder else 0)

    def _note_home(self, name: str) -> None:
        """Jobs made from now on were found under the root as it is now."""
        folder = self._folders.get(name)
        if folder is not None:
            self._homes.seen(name, folder.path)

    def scanned(self, folder: str) -> None:
        """A whole scan has ended: unfinished jobs whose source is not there have lost it."""
        after = 0
        while jobs := self._queue.unfinished(folder, after=after, limit=_PAGE):
            for job in jobs:
                self._check(job)
            after = jobs[-1].id

    def left_behind(self, folder: str, path: bytes) -> None:
        """A file was hidden to be deleted or moved, and no job of this table goes on with it: its own name again.

        It may never have been sent; if it was, the server needs no byte of it.
        """
        root, job = self._folders.root(folder), self._queue.job(hiding_job(path))
        if root is None:
            return
        table = self._queue.identity
        open_here = job is not None and job.finished is None and job.folder == folder
        if job is not None and open_here and is_hidden_for(path, job.path, job.id, table):
            return
        try:
            name = give_back(root, path)
        except OSError as error:
            _LOG.warning("%s cannot be given its name back: %s", readable(os.path.join(root, path)), error.strerror)
            return
        if name is not None:
            _LOG.warning("%s was left behind, and is %s again", readable(os.path.join(root, path)), readable(name))

    def gone(self, folder: str, path: bytes) -> None:
        """A hint that a file or a whole directory went away; a look decides."""
        found = self._folders.get(folder)
        if found is None:
            return
        devices = self._homes.only(folder, found.path)
        if self._folders.has_file(folder, path):
            return
        below = not self._folders.has_folder(folder, path)
        # Before and after: the looks between them may have been at another root, that was there for a moment.
        if devices is not None and devices == self._homes.only(folder, found.path):
            self._queue.source_gone(folder, path, below=below, devices=devices)
        # What is left was found on a disk mounted below the root, or under another root, where names may be alike.
        for job in self._queue.standing(folder, path, below=below):
            self._check(job)

    def _check(self, job: Job) -> None:
        """A job missing under another root than its own is left to its worker, which pauses it."""
        if self._folders.has_file(job.folder, job.path):
            return
        if self._whereabouts.is_deleted(job):
            self._queue.source_gone(job.folder, job.path, below=False)  # a folder may stand in the file's place

    def root_missing(self, folder: str) -> None:
        """Hold the folder's jobs."""
        _LOG.warning("folder %s is not there; its jobs are held until it is back", folder)
        self._queue.root_missing(folder)

    def root_back(self, folder: str) -> None:
        """Let the folder's jobs go on."""
        self._note_home(folder)
        self._queue.root_back(folder)
