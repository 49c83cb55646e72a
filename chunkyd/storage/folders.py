"""Walking folders part by part: openat(2) without following a symbolic link, so that no path leads out of the root.

A path is a list of names here. At most two descriptors are open at once, so a path may be longer than PATH_MAX and
deeper than the process may have files open.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def status(name: bytes, folder: int) -> os.stat_result | None:
    """What stands at the name itself, links not followed; None where there is nothing."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


class Walk:
    """A folder that is open, and moves down by a name at a time."""

    def __init__(self, root: int) -> None:
        self.folder = os.dup(root)

    def down(self, name: bytes, entering: Callable[[int, int], None] | None = None) -> None:
        """Into the folder of this name; `entering(above, below)` may object. Stays where it is, on any error.

        FileNotFoundError where there is nothing, NotADirectoryError where a link or a file stands.
        """
        below = os.open(name, FOLDER, dir_fd=self.folder)
        try:
            if entering is not None:
                entering(self.folder, below)
        except BaseException:
            os.close(below)
            raise
        os.close(self.folder)
        self.folder = below

    def up(self) -> None:
        """Back to the folder above: only where this walk came from there."""
        self.down(b"..")

    def close(self) -> None:
        """Release the folder."""
        os.close(self.folder)


@contextlib.contextmanager
def opened_folder(root: int, names: Sequence[bytes]) -> Iterator[int]:
    """The folder that the names lead to. FileNotFoundError, NotADirectoryError where they lead to none."""
    with contextlib.closing(Walk(root)) as walk:
        for name in names:
            walk.down(name)
        yield walk.folder


def regular_files(root: int, names: tuple[bytes, ...]) -> Iterator[tuple[tuple[bytes, ...], os.stat_result]]:
    """Every regular file below, as names from `root`, streamed; folders that vanish meanwhile are passed over.

    Each folder is reached from the root anew, so nothing is held between two of them but their names.
    """
    waiting = [names]
    while waiting:
        folder_names = waiting.pop()
        for name, found in _entries(root, folder_names):
            if stat.S_ISDIR(found.st_mode):
                waiting.append((*folder_names, name))
            elif stat.S_ISREG(found.st_mode):
                yield (*folder_names, name), found


def _entries(root: int, names: tuple[bytes, ...]) -> Iterator[tuple[bytes, os.stat_result]]:
    try:
        with opened_folder(root, names) as folder, os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)  # scandir of a descriptor knows str only
                found = status(name, folder)
                if found is not None:
                    yield name, found
    except (FileNotFoundError, NotADirectoryError):
        return
