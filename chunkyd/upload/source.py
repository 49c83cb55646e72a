"""The file that is sent: opened once, locked for reading, fingerprinted, hashed and read as a stream.

Rules: what is sent is what the one open descriptor reads, so a file replaced by rename is sent in its old, whole
version. Nothing is ever mapped into memory: a mapped file that shrinks kills the process. A read that comes back
short means that the file changed, never that the network failed. A lease that is asked back is given up at once,
because the writer waits for it, and counts as a change.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable

import crc32c

from chunkyd.errors import SourceChanged, SourceError, SourceGone, SourceUnreadable
from chunkyd.files import Fingerprint, fingerprint, is_regular, lstat_below, open_below
from chunkyd.protocol.paths import readable
from chunkyd.protocol.ranges import Range
from chunkyd.upload.midstate import Running, begin

READ_BYTES = 1024 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_UNSTABLE_INODES = frozenset({0x4D44, 0x2011BAB0, 0x65735546, 0x5346544E, 0x7366746E})  # FAT, exFAT, FUSE, NTFS twice
_IN_MEMORY = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs
_libc = ctypes.CDLL(None)
_WRITE_AND_WAIT = 7  # SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER
_SETTLED_SECONDS = 2.0  # a file written just now can change again without its times showing it: FAT's are that coarse
_STEADY_SECONDS = 60.0  # what was written so long ago is not being written
_leases = threading.Event()


def install_lease_handler() -> None:
    """Let this process take leases; called once by programs, from their main thread.

    A broken lease sends SIGIO, whose default ends the process. Ignoring it loses nothing: the descriptor itself is
    asked between reads (F_GETLEASE), and no handler has to run in a main thread that is busy elsewhere.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    _leases.set()


class Source:
    """One open regular file; `fingerprint` is the version it had when it was opened.

    `root`: a folder above the path; no link below it is followed. By default its own folder.
    Raises SourceGone, SourceUnreadable, or SourceChanged where another program holds it locked for writing.
    """

    def __init__(self, path: str | bytes, root: bytes | None = None) -> None:
        self.path = os.fsencode(path)
        self._root = os.path.dirname(self.path) or b"." if root is None else root
        self._below = os.path.basename(self.path) if root is None else self.path.removeprefix(root).lstrip(b"/")
        self._users = 1
        self._guard = threading.Lock()
        self._leased = False
        self._descriptor = self._open()
        try:
            status = os.fstat(self._descriptor)
            if not is_regular(status):
                raise SourceUnreadable(f"{self._name} is not a regular file", mend="Only regular files are sent.")
            if status.st_size == 0:
                self._check_empty()
            os.set_blocking(self._descriptor, True)
            self._lock()
            self.mode = status.st_mode & 0o777
            self.fingerprint = fingerprint(os.fstat(self._descriptor))
            self._stable_inodes = inodes_are_stable(self._descriptor)
            self._take_lease()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def _name(self) -> str:
        return readable(self.path)

    @property
    def size(self) -> int:
        """How many bytes this version has."""
        return self.fingerprint.size

    def identity(self) -> Fingerprint:
        """The fingerprint to remember: without what means nothing where inodes are not stable (vfat, exfat, FUSE)."""
        found = self.fingerprint
        if self._stable_inodes:
            return found
        return Fingerprint(device=0, inode=0, size=found.size, mtime_ns=found.mtime_ns, ctime_ns=0)

    def _open(self) -> int:
        try:  # O_NONBLOCK: opening a FIFO must not wait for its writer
            return open_below(self._root, self._below, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> SourceError:
        if error.errno in _GONE:
            return SourceGone(f"{self._name} is no longer there")
        if error.errno == errno.ELOOP:
            return SourceUnreadable(f"{self._name} is a symbolic link", mend="Only regular files are sent.")
        if error.errno == errno.EAGAIN:  # a leased file whose break is awaited: somebody is just opening it
            return SourceChanged(f"{self._name} is being opened for writing")
        reason = os.strerror(error.errno or 0)
        return SourceUnreadable(f"{self._name} cannot be read: {reason}", mend="Check its permissions and its disk.")

    def _check_empty(self) -> None:
        """A file of /proc, or of a file system that knows no sizes (some FUSE), has more bytes than it says: none."""
        try:
            hidden = os.pread(self._descriptor, 1, 0)
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._translated(error) from error
        if hidden and size:
            raise SourceChanged(f"{self._name} is just being written")
        if hidden:
            what = f"{self._name} says that it has no bytes, and has some"
            raise SourceUnreadable(what, mend="Its file system does not know its size: copy it, and send the copy.")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceChanged(
                f"{self._name} is locked by another program", mend="It can be sent once it is released."
            ) from error
        except OSError:
            return  # a file system without locks: the fingerprint still tells of a change

    def _take_lease(self) -> None:
        """From here on no change goes unseen: a writer has to ask for the lease, or leaves new times behind.

        Who writes through a memory mapping moves the times with the first write to a page, and with the next one only
        after the page was written back. So that is done where no lease says that nobody has the file open for writing.
        """
        if _leases.is_set():
            with contextlib.suppress(OSError):  # not our file, a writer has it open, or no leases on this file system
                fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                self._leased = True
                return
        _libc.sync_file_range(self._descriptor, ctypes.c_longlong(0), ctypes.c_longlong(0), _WRITE_AND_WAIT)

    def keep_lease(self) -> None:
        """Give a lease that is asked back up at once; SourceChanged then. Costs one call to the kernel."""
        if not self._leased:
            return
        with self._guard:
            if not self._leased or fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                return
            self._leased = False
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        raise SourceChanged(f"{self._name} is being opened for writing")

    def holds_still(self, now: float, clock_told: float) -> bool:
        """Whether nothing can change unseen, so that one reading is enough: a lease is held, or the last change is old.

        `now`: wall time; `clock_told`: the seconds since the clock was set, because times before mean nothing. Where
        inodes are not stable, ctime says too little; in memory (tmpfs) a write through a mapping moves no time at all.
        """
        if self._leased:
            return True
        if is_in_memory(self._descriptor):
            return False
        quiet = min(now - max(self.fingerprint.mtime_ns, self.fingerprint.ctime_ns) / 1e9, clock_told)
        return self._stable_inodes and quiet > _STEADY_SECONDS

    def has_settled(self, now: float) -> bool:
        """Whether its times would tell of a change from `now` (wall time) on: what is remembered of it counts then.

        Never of a file in memory: there a write through a mapping moves no time.
        """
        if is_in_memory(self._descriptor):
            return False
        return now - max(self.fingerprint.mtime_ns, self.fingerprint.ctime_ns) / 1e9 > _SETTLED_SECONDS

    def check(self) -> None:
        """Raise SourceChanged or SourceGone unless the open file is still the version it was and the path exists."""
        self.keep_lease()
        try:
            status = os.fstat(self._descriptor)
            lstat_below(self._root, self._below)
        except OSError as error:
            raise self._translated(error) from error
        found = fingerprint(status)
        if status.st_nlink == 0:  # replaced by rename: losing its name touched ctime, and ctime only
            found = Fingerprint(found.device, found.inode, found.size, found.mtime_ns, self.fingerprint.ctime_ns)
        if not found.same_version(self.fingerprint, stable_inodes=self._stable_inodes):
            raise SourceChanged(f"{self._name} changed while it was being sent")

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes at `start`; SourceChanged where the file has none there any more."""
        self.keep_lease()
        try:
            piece = os.pread(self._descriptor, length, start)
        except OSError as error:
            raise self._translated(error) from error
        if not piece and length:
            raise SourceChanged(f"{self._name} shrank while it was being read")
        return piece

    def crc32c(self, chunk: Range, proceed: Callable[[], None]) -> bytes:
        """The CRC-32C of a range, four bytes; `proceed` is called between reads and may raise.

        A pass of its own before the chunk is sent: the digest stands in the head. It costs little beside sending (the
        second read comes from the page cache) and a chunk held in memory instead would cost its size per connection.
        """
        value = 0
        start, stop = chunk
        while start < stop:
            proceed()
            piece = self.read(start, min(READ_BYTES, stop - start))
            value = crc32c.crc32c(piece, value)
            start += len(piece)
        return int(value).to_bytes(4, "big")

    def sha256(self, proceed: Callable[[int], None], running: Running | None = None) -> str:
        """The file hash; `proceed(bytes hashed so far)` is called between reads and may raise.

        `running`: one that has taken the first bytes of this version already. Raises SourceChanged where the file is
        not the same before and after: only a version that existed gets a hash.
        """
        running = running or begin(self.size)
        buffer = memoryview(bytearray(min(READ_BYTES, max(self.size, 1))))
        while running.position < self.size:
            proceed(running.position)
            self._hash_piece(running, buffer[: self.size - running.position])
        self.check()
        return running.hexdigest()

    def _hash_piece(self, running: Running, buffer: memoryview) -> None:
        self.keep_lease()
        try:
            count = os.preadv(self._descriptor, [buffer], running.position)
        except OSError as error:
            raise self._translated(error) from error
        if count == 0:
            raise SourceChanged(f"{self._name} shrank while it was being read")
        running.update(buffer[:count])

    def share(self) -> None:
        """Count one more user; each `close` takes one away, and the last one closes the file."""
        with self._guard:
            self._users += 1

    def close(self) -> None:
        """Leave; with the last user the lock and the lease end."""
        with self._guard:
            self._users -= 1
            if self._users == 0:
                self._leased = False
                os.close(self._descriptor)


class _StatFs(ctypes.Structure):
    """struct statfs: only its first member has a name here."""

    _fields_ = (("type", ctypes.c_ulong), ("rest", ctypes.c_ubyte * 248))


def inodes_are_stable(descriptor: int) -> bool:
    """Whether a file keeps its inode number; asked of the kernel for each file, in microseconds (statfs(2))."""
    return _file_system(descriptor) not in _UNSTABLE_INODES


def is_in_memory(descriptor: int) -> bool:
    """Whether its pages are never written back, so that writes through a mapping move no time (tmpfs, ramfs)."""
    return _file_system(descriptor) in _IN_MEMORY


def _file_system(descriptor: int) -> int | None:
    """The magic number of its file system; None where there is no telling."""
    found = _StatFs()
    return None if _libc.fstatfs(descriptor, ctypes.byref(found)) != 0 else int(found.type)
