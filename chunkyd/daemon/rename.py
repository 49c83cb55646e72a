"""Renaming without replacing: renameat2(2) with RENAME_NOREPLACE, which `os` does not offer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

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
