"""A sent file is moved to another file system: copied, synced, named, its name synced. Only then may the source go.

Until it has its name the copy has none, where the file system knows files without one (O_TMPFILE; not NFS or vfat): a
crash leaves nothing behind. Elsewhere it has a hidden one, which the same job's next try overwrites and removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial

from chunkyd.checkpoints import reached
from chunkyd.daemon.rename import numbered, take_free_name
from chunkyd.files import fsync_directory

_BLOCK_BYTES = 1 << 20
_FLAGS = os.O_RDWR | os.O_CLOEXEC
_NEEDS_A_NAME = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
Naming = Callable[[bytes], None]


def copy_durably(source: int, target: bytes, temporary: bytes, unchanged: Callable[[], bool]) -> bool:
    """Copy an open file to the target's name, or the next numbered one; False where it changed meanwhile.

    `temporary`: a hidden path beside the target, for this job alone. `unchanged`: asked when all is copied.
    """
    with _new_file(target, temporary) as (copy, name):
        size = _copy(source, copy)
        reached("daemon.copy.synced")
        if size != os.fstat(source).st_size or not unchanged():
            return False
        if not _is_named(copy, target):  # else a crash came between naming the copy and removing the source
            name(target)
        reached("daemon.copy.named")
    fsync_directory(os.path.dirname(target))
    reached("daemon.copy.durable")
    return True


@contextlib.contextmanager
def _new_file(target: bytes, temporary: bytes) -> Iterator[tuple[int, Naming]]:
    """A new file in the target's folder, and how it gets the first free one of the target's names."""
    descriptor = _opened_without_a_name(os.path.dirname(target))
    if descriptor is not None:
        try:
            yield descriptor, partial(_link_free, descriptor)
        finally:
            os.close(descriptor)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor, partial(take_free_name, temporary)
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _opened_without_a_name(folder: bytes) -> int | None:
    try:
        return os.open(folder, _FLAGS | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in _NEEDS_A_NAME:
            raise
        return None


def _link_free(descriptor: int, target: bytes) -> None:
    for candidate in numbered(target):
        with contextlib.suppress(FileExistsError):
            # With some folder's descriptor Python uses linkat(2), which follows the link in /proc; link(2) would not.
            os.link(_path_of(descriptor), candidate, src_dir_fd=descriptor, follow_symlinks=True)
            return


def _path_of(descriptor: int) -> bytes:
    return b"/proc/self/fd/%d" % descriptor


def _is_named(copy: int, target: bytes) -> bool:
    """Whether one of the names that the copy could have been given holds its content and attributes already."""
    for name in numbered(target):
        if not os.path.lexists(name):
            return False
        if _same_content(copy, name):
            return True
    return False


def _copy(source: int, target: int) -> int:
    """Bytes, attributes, sync; the number of bytes."""
    offset = 0
    with open(target, "wb", closefd=False) as copy:
        while block := os.pread(source, _BLOCK_BYTES, offset):
            copy.write(block)
            offset += len(block)
    reached("daemon.copy.written")
    shutil.copystat(_path_of(source), _path_of(target))
    os.fsync(target)
    return offset


def _same_content(copy: int, name: bytes) -> bool:
    try:
        a, b = os.fstat(copy), os.lstat(name)
        if (a.st_size, a.st_mtime_ns, a.st_mode) != (b.st_size, b.st_mtime_ns, b.st_mode):
            return False
        offset = 0
        with open(name, "rb") as other:
            while block := other.read(_BLOCK_BYTES):
                if block != os.pread(copy, len(block), offset):
                    return False
                offset += len(block)
        return True
    except FileNotFoundError:
        return False
