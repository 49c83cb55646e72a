"""System calls that Python does not offer: fallocate(2) itself, sync_file_range(2), FICLONE. Linux only."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from chunkyd.files import DISK_FULL

_libc = ctypes.CDLL(None, use_errno=True)
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
_NO_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ETXTBSY, errno.EBADF, errno.ENOSYS}
)
_SYNC_FILE_RANGE_WRITE = 2
_FICLONE = 0x40049409

_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)


def allocate(descriptor: int, size: int) -> bool:
    """Set `size` bytes aside and make the file as long; False where the file system cannot, with the length set.

    Not `os.posix_fallocate`: where the file system has no fallocate, glibc writes to every block, for hours.
    """
    while size > 0 and _fallocate(descriptor, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            os.ftruncate(descriptor, size)
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


def start_writing_back(descriptor: int, start: int, stop: int) -> None:
    """Ask the kernel to begin writing these pages; a hint, so a refusal is no error."""
    _sync_file_range(descriptor, start, stop - start, _SYNC_FILE_RANGE_WRITE)


def share_content(source: int, destination: int) -> bool:
    """Make `destination` share all bytes of `source` (FICLONE); False where the file system cannot."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE and error.errno not in DISK_FULL:
            return False
        raise
    return True
