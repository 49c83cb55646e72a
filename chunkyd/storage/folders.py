"""Walking folders part by part: openat(2) without following a symbolic link, so that no path leads out of the root.

A path is a list of names here. At most two descriptors are open at once, so a path may be longer than PATH_MAX and
deeper than the process may have files open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


NO_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})  # the file system could not even have such a name


def status(name: bytes, folder: int) -> os.stat_result | None:
    """What stands at the name itself, links not followed; None where there is nothing."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOENT or error.errno in NO_NAME:
            return None
        raise


def leads_nowhere(error: OSError) -> bool:
    """Whether an error on the way says that there is no such folder."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in NO_NAME


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

    def along(self, names: Sequence[bytes], entering: Callable[[int, int], None] | None = None) -> bool:
        """Down all of these names; False where they lead to no folder, and the walk stays on the way."""
        try:
            for name in names:
                self.down(name, entering)
        except OSError as error:
            if leads_nowhere(error):
                return False
            raise
        return True

    def again(self, root: int, names: Sequence[bytes]) -> bool:
        """Down these names from a root."""
        os.close(self.folder)
        self.folder = os.dup(root)
        return self.along(names)

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


Found = tuple[tuple[bytes, ...], os.stat_result]


def regular_files(root: int, names: Sequence[bytes]) -> Iterator[Found]:
    """Every regular file below the folder, as names from `root`, streamed; what vanishes meanwhile is passed over.

    One descriptor goes down and, by "..", up again, so that a deep tree costs no more than a wide one. A folder that
    somebody moved elsewhere meanwhile has another one above it: that is noticed, and the way begins at the root again.
    """
    path = list(names)
    trail: list[tuple[os.stat_result, list[bytes]]] = []  # each folder above, and where else to go from there
    with contextlib.closing(Walk(root)) as walk:
        if not walk.along(path):
            return
        waiting = yield from _files_here(walk.folder, path)
        while waiting or trail:
            if waiting:
                above = os.fstat(walk.folder)
                if walk.along([name := waiting.pop()]):
                    path.append(name)
                    trail.append((above, waiting))
                    waiting = yield from _files_here(walk.folder, path)
                continue
            path.pop()
            above, waiting = trail.pop()
            walk.up()
            if not os.path.samestat(os.fstat(walk.folder), above) and not walk.again(root, path):
                waiting = []


def _files_here(folder: int, path: Sequence[bytes]) -> Generator[Found, None, list[bytes]]:
    """Yield the regular files of one folder; return the names of the folders in it."""
    folders: list[bytes] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)  # scandir of a descriptor knows str only
            found = status(name, folder)
            if found is not None and stat.S_ISDIR(found.st_mode):
                folders.append(name)
            elif found is not None and stat.S_ISREG(found.st_mode):
                yield (*path, name), found
    return folders
