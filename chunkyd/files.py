"""Files as both ends need them: durable writes, folders made durable, fingerprints of versions.

Paths are bytes or str as `os` takes them; a name that is not UTF-8 is as good as any other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import TypeGuard

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.errors import StorageFull, UsageError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TEMPORARY_PREFIX = ".chunkyd-"
_WIDE_BYTES = 16
_INTEGERS = {int}
_SHORT = 4000  # bytes of a path that a system call takes for sure
_ROOM_BYTES = 1 << 17  # SQLite asks for no more at once, its shared memory included
Column = int | bytes


class Fingerprint(msgspec.Struct, frozen=True):
    """What tells one version of a file from another without reading it.

    `device` counts only within one run of the system: device numbers change over reboots (btrfs, NFS, LVM, loop).
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def same_version(self, other: Fingerprint, *, stable_inodes: bool = True) -> bool:
        """Whether both stand for the same bytes; without stable inodes (vfat, exfat, FUSE) size and mtime decide."""
        if (self.size, self.mtime_ns) != (other.size, other.mtime_ns):
            return False
        return not stable_inodes or (self.inode, self.ctime_ns) == (other.inode, other.ctime_ns)


def fingerprint(status: os.stat_result) -> Fingerprint:
    """The fingerprint of what `os.stat`, `os.lstat` or `os.fstat` returned."""
    return Fingerprint(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def fingerprint_columns(found: Fingerprint) -> tuple[Column, ...]:
    """A fingerprint as five columns of a database whose integers are signed and have 64 bits, as SQLite's.

    Times of far years in nanoseconds do not fit (`touch -d 2400-01-01`): such a number is bytes, which SQLite keeps as
    they are where a column is INTEGER; as text it would become a rounded float.
    """
    return (
        signed(found.device),
        signed(found.inode),
        found.size,
        _fitting(found.mtime_ns),
        _fitting(found.ctime_ns),
    )


def fingerprint_of_columns(columns: Sequence[Column]) -> Fingerprint:
    """The columns as a fingerprint again; ValueError where they are none."""
    device, inode, size, mtime_ns, ctime_ns = columns if _are_integers(columns) else map(_number, columns)
    return Fingerprint(device % 2**64, inode % 2**64, size, mtime_ns, ctime_ns)


def signed(number: int) -> int:
    """Device and inode numbers use 64 bits at most; they stay integers, so that a database can compare them."""
    return number - 2**64 if number >= 2**63 else number


def _fitting(number: int) -> Column:
    return number if -(2**63) <= number < 2**63 else number.to_bytes(_WIDE_BYTES, "big", signed=True)


def _are_integers(columns: Sequence[Column]) -> TypeGuard[Sequence[int]]:
    return set(map(type, columns)) == _INTEGERS  # of nearly all files, and a scan has a hundred thousand


def _number(column: Column) -> int:
    if isinstance(column, int):
        return column
    if not isinstance(column, bytes) or len(column) != _WIDE_BYTES:
        raise ValueError("a column of a fingerprint is no number")
    return int.from_bytes(column, "big", signed=True)


def absolute(path: bytes) -> bytes:
    """The path from the root. A `..` behind a symbolic link leads where it leads the kernel: above the link's target.

    Raises UsageError for a relative path where the working folder is gone.
    """
    try:
        head, last = os.path.split(path.rstrip(b"/"))
        if last == b"..":
            return os.path.realpath(path)
        if b".." in head.split(b"/"):
            return os.path.join(os.path.realpath(head), last)
        return os.path.abspath(path)
    except FileNotFoundError as error:
        raise UsageError("the working folder is no longer there", mend="Change to another one.") from error


def is_regular(status: os.stat_result) -> bool:
    """Only regular files are sent: a FIFO would block the reader, a device never ends."""
    return stat.S_ISREG(status.st_mode)


def open_folder_below(root: bytes, folder: bytes) -> int:
    """A descriptor (O_PATH) of a folder below a root; a link on the way is not followed, but NotADirectoryError.

    Opened step by step: whoever puts a link in a folder's place leads nobody out of the root, however well he times it.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    try:
        for part in folder.split(b"/") if folder else ():
            deeper = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def folder_below(root: bytes, folder: bytes) -> Iterator[int]:
    """The same, closed at the end."""
    descriptor = open_folder_below(root, folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_below(root: bytes, path: bytes, flags: int) -> int:
    """Open a file below a root; no link below the root is followed."""
    folder, name = os.path.split(path)
    if not folder and len(root) + len(name) < _SHORT:
        return os.open(os.path.join(root, name), flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    with folder_below(root, folder) as descriptor:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)


def lstat_below(root: bytes, path: bytes) -> os.stat_result:
    """What stands at a path below a root; no link below the root is followed."""
    folder, name = os.path.split(path)
    if not folder and len(root) + len(name) < _SHORT:
        return os.lstat(os.path.join(root, name))
    with folder_below(root, folder) as descriptor:
        return os.stat(name, dir_fd=descriptor, follow_symlinks=False)


def lstat_long(root: bytes, path: bytes) -> os.stat_result:
    """What stands at a path below a root: in one call, or step by step where the path is longer than a call takes."""
    try:
        return os.lstat(os.path.join(root, path))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return lstat_below(root, path)


def open_long(root: bytes, path: bytes, flags: int) -> int:
    """Open a file below a root, no link itself; whatever the length of its path."""
    try:
        return os.open(os.path.join(root, path), flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return open_below(root, path, flags)


class told_as:
    """Raise what `tell` makes of an OSError that has one of these numbers, in its place.

    A class, for it stands around each step of each file: made of a generator it takes five times as long.
    """

    __slots__ = ("_numbers", "_tell")

    def __init__(self, numbers: Collection[int], tell: Callable[[OSError], Exception]) -> None:
        self._numbers = numbers
        self._tell = tell

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in self._numbers:
            raise self._tell(error) from error


def disk_full_is_storage_full(what: str) -> told_as:
    """Turn ENOSPC and EDQUOT into StorageFull; `what` says what could not be written."""
    return told_as(DISK_FULL, lambda error: StorageFull(f"{what}: {os.strerror(error.errno or 0)}"))


def has_no_room(folder: str) -> bool:
    """Whether nothing more can be written there. Tried out: what is free does not tell of a quota, or of a reserve."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=_TEMPORARY_PREFIX) as file:
            file.write(bytes(_ROOM_BYTES))
    except OSError as error:
        return error.errno in DISK_FULL
    return False


def fsync_directory(path: str | bytes) -> None:
    """Make creations, renames and removals in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable_folder(path: str, mode: int = 0o700) -> None:
    """Create a folder and its missing parents; each new entry is synced into its parent before the next is made."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_durable_folder(parent, 0o755)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    reached("files.folder.made")
    fsync_directory(parent)
    reached("files.folder.synced")


def atomic_write(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace a small file in one durable step: temporary, fsync, rename, fsync of the folder."""
    folder = os.path.dirname(path) or "."
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=_TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        reached("files.atomic.synced")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    reached("files.atomic.renamed")
    fsync_directory(folder)
    reached("files.atomic.durable")


def remove_temporaries(folder: str) -> None:
    """Remove what an `atomic_write` left behind that a crash cut short; only for the one process that writes here."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_TEMPORARY_PREFIX) and is_regular(os.lstat(path)):
            os.unlink(path)
