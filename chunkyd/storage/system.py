"""System calls that Python does not offer: fallocate(2) itself, sync_file_range(2), syncfs(2), FICLONE. Linux only."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import sys

from chunkyd.files import DISK_FULL
from chunkyd.mounts import file_system

_libc = ctypes.CDLL(None, use_errno=True)
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
_NO_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ETXTBSY, errno.EBADF, errno.ENOSYS}
)
_SYNC_FILE_RANGE_WRITE = 2
_GROUP_COMMIT = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
_TELLS_OF_FAILURES = (5, 8)  # the Linux whose syncfs says that a write failed
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


def start_writing_back(descriptor: int, start: int = 0, stop: int = 0) -> None:
    """Ask the kernel to begin writing these pages, or all; a hint, so a refusal is no error."""
    _sync_file_range(descriptor, start, stop - start, _SYNC_FILE_RANGE_WRITE)


def syncs_as_one(folder: str) -> bool:
    """Whether `sync_file_system` costs less than syncing some files one by one, and tells when it failed."""
    linux = re.match(r"(\d+)\.(\d+)", os.uname().release)
    told = linux is not None and (int(linux[1]), int(linux[2])) >= _TELLS_OF_FAILURES
    return told and file_system(folder) in _GROUP_COMMIT


def sync_file_system(descriptor: int) -> None:
    """Wait until all that was written to the file system of this descriptor is on the disk. Raises OSError."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unwritten_bytes(told: str = "/proc/meminfo") -> int:
    """Bytes in memory that wait for a disk, of all programs; more than there can be where the system does not tell."""
    try:
        with open(told, "rb") as file:
            found = re.findall(rb"^(?:Dirty|Writeback): +(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        found = []
    return sum(map(int, found)) * 1024 if found else sys.maxsize


def share_content(source: int, destination: int) -> bool:
    """Make `destination` share all bytes of `source` (FICLONE); False where the file system cannot."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE and error.errno not in DISK_FULL:
            return False
        raise
    return True
