"""Renaming without replacing: renameat2(2) with RENAME_NOREPLACE, which `os` does not offer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from chunkyd.names import numbered_name

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL})
_LIBC = ctypes.CDLL(None, use_errno=True)


def rename_without_replacing(source: bytes, target: bytes) -> None:
    """Rename, or raise FileExistsError where the target's name is taken; never replaces anything.

    File systems without RENAME_NOREPLACE (NFS, some FUSE) get a hard link and an unlink: the same promise, in two
    steps of which a crash between them leaves both names of the one file.
    """
    if _LIBC.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), os.fsdecode(target))
    os.link(source, target, follow_symlinks=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source)


def take_free_name(path: bytes, target: bytes) -> None:
    """Rename to the first free one of `numbered(target)`."""
    for candidate in numbered(target):
        with contextlib.suppress(FileExistsError):
            rename_without_replacing(path, candidate)
            return


def numbered(target: bytes) -> Iterator[bytes]:
    """The target, then `name.~1~`, `name.~2~`, …, cut to fit: moving never overwrites."""
    yield target
    folder, name = os.path.split(target)
    for number in range(1, 1_000_000):
        yield os.path.join(folder, numbered_name(name, number))
    raise FileExistsError(errno.EEXIST, "every numbered name is taken", os.fsdecode(target))
