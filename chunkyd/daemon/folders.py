"""The watched folders of the running configuration: names to settings, jobs to paths; replaced whole by a reload."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from chunkyd.daemon.after import HIDDEN_PREFIX, MOVING_PREFIX
from chunkyd.files import is_regular, lstat_below
from chunkyd.settings import Folder
from chunkyd.watch.shapes import WatchedRoot

_OWN_NAMES = (f"{HIDDEN_PREFIX.decode()}*", f"{MOVING_PREFIX.decode()}*")


class Folders:
    """What `intake`, `runner` and `status` look up; reading it needs no lock, since `replace` swaps one reference."""

    def __init__(self, folders: Iterable[Folder]) -> None:
        self._by_name: Mapping[str, Folder] = {}
        self.replace(folders)

    def replace(self, folders: Iterable[Folder]) -> None:
        """Take over a new configuration."""
        self._by_name = {folder.name: folder for folder in folders}

    def get(self, name: str) -> Folder | None:
        """The folder of this name; None where the configuration no longer has it."""
        return self._by_name.get(name)

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._by_name)

    def all(self) -> list[Folder]:
        """As they were written."""
        return list(self._by_name.values())

    def source(self, name: str, path: bytes) -> bytes | None:
        """Where a file below a folder stands on this machine."""
        folder = self._by_name.get(name)
        return os.path.join(os.fsencode(folder.path), path) if folder else None

    def root(self, name: str) -> bytes | None:
        """Where the folder itself stands."""
        folder = self._by_name.get(name)
        return os.fsencode(folder.path) if folder else None

    def has_file(self, name: str, path: bytes) -> bool:
        """Whether a regular file is there. What took its place is nothing to send; what cannot be seen may be one."""
        root = self.root(name)
        try:
            return root is not None and is_regular(lstat_below(root, path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def has_folder(self, name: str, path: bytes) -> bool:
        """Whether a folder is there, and no link to one."""
        root = self.root(name)
        try:
            return root is not None and stat.S_ISDIR(lstat_below(root, path).st_mode)
        except OSError:
            return False

    def watched(self) -> list[WatchedRoot]:
        """What the watcher is told of them; the daemon's own hidden names are never files to send."""
        return [
            WatchedRoot(
                name=folder.name,
                path=folder.path,
                include=folder.include,
                exclude=(*folder.exclude, *_OWN_NAMES),
                settle=folder.settle,
                rescan=folder.rescan,
                poll=folder.poll,
            )
            for folder in self._by_name.values()
        ]


def published_path(folder: str, path: bytes) -> bytes:
    """A file arrives as `<folder's name>/<path below the folder>`."""
    return os.fsencode(folder) + b"/" + path
