"""Looks at single files: those that a hint named, and those that settle.

Only regular files are reported, and only where every directory above them is one: a directory that became a symlink
leads somewhere else. A file is gone only while the root holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from chunkyd.clock import Clock, SinceSet
from chunkyd.files import Fingerprint, fingerprint, is_regular, lstat_long, open_long
from chunkyd.watch.outbox import Outbox
from chunkyd.watch.rescan import stands_below
from chunkyd.watch.roots import FileSystem
from chunkyd.watch.settle import Settling
from chunkyd.watch.shapes import Settled, WatchedRoot
from chunkyd.watch.unreadable import Unreadable
from chunkyd.watch.writers import open_for_writing


class Looks:
    """The looks of one root. `holds` says whether the root is still the folder it was."""

    def __init__(
        self,
        root: WatchedRoot,
        system: FileSystem,
        settling: Settling,
        outbox: Outbox,
        clock: Clock,
        since_set: SinceSet,
        holds: Callable[[], bool],
        unreadable: Unreadable,
    ) -> None:
        self._root = root
        self._top = os.fsencode(root.path)
        self._system = system
        self._settling = settling
        self._outbox = outbox
        self._clock = clock
        self._since_set = since_set
        self._holds = holds
        self._unreadable = unreadable

    def look(self) -> None:
        """Look at the files whose time has come, and report those that are ready."""
        now, wall, believed = self._clock.monotonic(), self._clock.wall(), self._since_set.seconds()
        inside: dict[bytes, bool] = {}
        for path in self._settling.due(now):
            found = self._look_at(path)
            if found is None:
                continue
            written = partial(open_for_writing, self._top, path)
            if not self._settling.saw(path, found, now, min(believed, self._system.quiet(found, wall)), written):
                continue
            directory = os.path.dirname(path)
            if directory not in inside:
                inside[directory] = stands_below(self._top, directory)
            if inside[directory]:
                self._outbox.settled(Settled(self._root.name, path, found))

    def _look_at(self, path: bytes) -> Fingerprint | None:
        try:
            status = lstat_long(self._top, path)
            if is_regular(status):
                found = fingerprint(_fresh(self._top, path) if self._system.network else status)
                self._unreadable.forget(path)
                return found
        except (FileNotFoundError, NotADirectoryError):
            self._is_gone(path)
            return None
        except OSError as error:
            self._unreadable.remember(path, os.strerror(error.errno or 0))
            self._settling.postpone(path, self._clock.monotonic())
            return None
        self._settling.forget(path)
        return None

    def look_for(self, path: bytes) -> None:
        """A path is said to be gone. It may be back already."""
        try:
            status = lstat_long(self._top, path)
        except (FileNotFoundError, NotADirectoryError):
            self._is_gone(path)
        except OSError:
            return  # it is there, or cannot be seen: a scan finds out
        else:
            if is_regular(status):
                self._settling.hint(path, self._clock.monotonic())

    def _is_gone(self, path: bytes) -> None:
        self._settling.forget(path)
        self._unreadable.forget(path)
        if self._holds():
            self._outbox.gone(path)


def _fresh(root: bytes, path: bytes) -> os.stat_result:
    """Opening a file makes a network file system ask its server, where a mere look is answered from memory."""
    descriptor = open_long(root, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
