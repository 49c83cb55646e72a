"""Bytes on a local file system.

    data_dir/.lock                   held (flock) by the one process that owns the folder; its pid is in it
    data_dir/partial/<session id>    sessions in progress; names with a dot are temporary and removed at start
    data_dir/files/<user>/…          published

`partial` and `files` are on one file system: publishing is a rename. See `placing` for the steps of it.

Many small files are made together: all are written and have their attributes before the first is synced. Where that
is cheap, one sync of the file system is for all of them (decision 0024). Else all are being written back before the
first is synced: a file system that writes inodes by the block, and commits what has gathered, does both a few times
for all of them, and not once for each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.errors import AlreadyRunning, StateError, StorageFull
from chunkyd.files import Fingerprint, disk_full_is_storage_full, fingerprint, make_durable_folder
from chunkyd.protocol.paths import Target, check_path
from chunkyd.storage.base import Attributes, NewFile, Prepared, Publication
from chunkyd.storage.names import session_name
from chunkyd.storage.opened import DISK_FULL_TEXT, OpenFile, write_all
from chunkyd.storage.system import (
    allocate,
    share_content,
    start_writing_back,
    sync_file_system,
    syncs_as_one,
    unwritten_bytes,
)
from chunkyd.storage.tree import Published, Tree
from chunkyd.turns import in_turn

_log = logging.getLogger("chunkyd.storage")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = _OPEN | os.O_CREAT | os.O_EXCL
_FILE_MODE = 0o644  # less the umask; the partials' folder is closed to others
_LITTLE_BYTES = 64 << 20  # of everybody's, to be written with ours: a fraction of a second
_PROBE = b".probe"
_PROBE_BYTES = bytes(4096)


class _Made(msgspec.Struct, frozen=True):
    """A new file that is written and has its attributes, still open: closed before its sync, it could lose the news of
    a failed write."""

    descriptor: int
    inode: int


class DiskStorage:
    """The storage contract over a folder. One process owns it: AlreadyRunning says which. StateError: unusable."""

    def __init__(self, data_dir: str) -> None:
        self._held = contextlib.ExitStack()
        try:
            self._open(data_dir)
        except OSError as error:
            self._held.close()
            raise StateError(
                f"the data folder {data_dir} cannot be used: {os.strerror(error.errno or 0)}",
                mend="check that it is a folder on a local disk and that this user may write to it",
            ) from error
        except BaseException:
            self._held.close()
            raise

    def _open(self, data_dir: str) -> None:
        make_durable_folder(data_dir)
        self._lock(data_dir)
        for name, mode in (("partial", 0o700), ("files", 0o755)):
            make_durable_folder(os.path.join(data_dir, name), mode)
        self._partials = self._folder(os.path.join(data_dir, "partial"))
        files = self._folder(os.path.join(data_dir, "files"))
        if os.fstat(self._partials).st_dev != os.fstat(files).st_dev:
            raise StateError(
                f"partial and files in {data_dir} are on different file systems",
                mend="put both on one: a finished upload is published by a rename",
            )
        self._tree = Tree(files, self._partials)
        self._syncs_as_one = syncs_as_one(os.path.join(data_dir, "partial"))  # may be a link to another disk
        for name in os.listdir(self._partials):
            if name.startswith("."):
                self._remove(name)

    def _lock(self, data_dir: str) -> None:
        lock = os.open(os.path.join(data_dir, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise AlreadyRunning(
                f"the data folder {data_dir} is in use by process {holder}",
                mend="stop that server first, or give this one a data folder of its own",
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(os.path.join(data_dir, ".LOCK")), os.fstat(lock)):
                raise StateError(
                    f"the file system of {data_dir} does not tell a from A: such names would replace each other",
                    mend="put the data folder on a file system that does",
                )
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        reached("storage.lock.taken")

    def _folder(self, path: str) -> int:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.callback(os.close, folder)
        return folder

    def create(self, session_id: str, size: int) -> bool:
        """See the contract."""
        name = session_name(session_id)
        reached("storage.partial.making")
        with disk_full_is_storage_full(DISK_FULL_TEXT):
            descriptor = os.open(name, _CREATE, _FILE_MODE, dir_fd=self._partials)
            try:
                reached("storage.partial.made")
                allocated = allocate(descriptor, size)
                reached("storage.partial.allocated")
                if allocated:
                    os.fsync(descriptor)  # the space stays set aside over a power cut, as will be recorded
                os.fsync(self._partials)
                reached("storage.partial.durable")
            except BaseException:
                os.unlink(name, dir_fd=self._partials)
                raise
            finally:
                os.close(descriptor)
        return allocated

    def open(self, session_id: str) -> OpenFile:
        """See the contract."""
        return OpenFile(self._descriptor(session_id))

    def _descriptor(self, session_id: str) -> int:
        name = session_name(session_id)
        self._require(name)
        try:
            return os.open(name, _OPEN, dir_fd=self._partials)
        except PermissionError:
            # Prepared with a read-only mode, then cut short: `prepare` sets the mode once more.
            os.chmod(name, 0o600, dir_fd=self._partials)
            return os.open(name, _OPEN, dir_fd=self._partials)

    def _require(self, name: str) -> os.stat_result:
        """What stands there; FileNotFoundError where it is no file: somebody's link or folder is no partial."""
        found = os.stat(name, dir_fd=self._partials, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return found

    def discard(self, session_id: str) -> None:
        """See the contract."""
        reached("storage.partial.discarding")
        self._remove(session_name(session_id))
        reached("storage.partial.discarded")

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._partials)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            _log.warning("partial/%s is a folder, and so none of the server's: it is left alone; remove it", name)

    def partials(self) -> Iterator[str]:
        """See the contract."""
        return (name for name in os.listdir(self._partials) if not name.startswith("."))

    def inode(self, session_id: str) -> int | None:
        """See the contract."""
        with contextlib.suppress(FileNotFoundError):
            return self._require(session_name(session_id)).st_ino
        return None

    def free_bytes(self) -> int:
        """See the contract."""
        found = os.fstatvfs(self._partials)
        return found.f_bavail * found.f_frsize

    def prepare(self, session_id: str, attributes: Attributes) -> Prepared:
        """See the contract."""
        with _closing(self._descriptor(session_id)) as descriptor, disk_full_is_storage_full(DISK_FULL_TEXT):
            inode = _set(descriptor, attributes).st_ino
            _sync(descriptor)
            return Prepared(inode)

    def prepare_all(self, files: Sequence[NewFile]) -> list[Prepared | OSError | StorageFull]:
        """See the contract. Each step is made for all of them before the next: see the module."""
        with in_turn():
            made = [self._write_new(file) for file in files]
        descriptors = [each.descriptor for each in made if isinstance(each, _Made)]
        synced = len(descriptors) > 1 and self._sync_as_one(descriptors[0])
        if not synced:
            for descriptor in descriptors:
                start_writing_back(descriptor)
        with in_turn() if synced else contextlib.nullcontext():
            return [self._prepare_new(file, each, synced=synced) for file, each in zip(files, made, strict=True)]

    def _sync_as_one(self, first: int) -> bool:
        """Sync the file system, bytes and metadata; False where each file is to be synced by itself.

        The kernel tells each open file once that a write to its file system has failed. So `first` is asked, which was
        opened before a byte of the group was written: of a descriptor that groups share, one would take the news from
        the other. The folder is synced besides: ext4 without a journal flushes the disk's cache before it writes the
        inodes.
        """
        if not self._syncs_as_one or unwritten_bytes() > _LITTLE_BYTES:
            return False
        try:
            sync_file_system(first)
            _sync(self._partials)
        except OSError:  # not of which file, nor that it was one of ours
            return False
        return True

    def _write_new(self, file: NewFile) -> _Made | OSError | StorageFull:
        name, mode = session_name(file.session_id), file.attributes.mode
        descriptor = None
        try:
            with disk_full_is_storage_full(DISK_FULL_TEXT):
                descriptor = os.open(name, _CREATE, _FILE_MODE if mode is None else _mode(mode), dir_fd=self._partials)
                write_all(descriptor, file.content)
                return _Made(descriptor, _set(descriptor, file.attributes).st_ino)
        except (OSError, StorageFull) as error:
            if descriptor is not None:
                os.close(descriptor)
                self._give_up(file)
            return error

    def _prepare_new(
        self, file: NewFile, made: _Made | OSError | StorageFull, *, synced: bool
    ) -> Prepared | OSError | StorageFull:
        if not isinstance(made, _Made):
            return made
        try:
            with disk_full_is_storage_full(DISK_FULL_TEXT):
                try:
                    if not synced:
                        _sync(made.descriptor)
                finally:
                    os.close(made.descriptor)
            return Prepared(made.inode)
        except (OSError, StorageFull) as error:
            self._give_up(file)
            return error

    def _give_up(self, file: NewFile) -> None:
        """A disk that takes nothing more need not let go of anything either: the others are still to be closed."""
        with contextlib.suppress(OSError):
            self.discard(file.session_id)

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        """See the contract."""
        check_path(target.path)
        (outcome,) = self.publish_all([Publication(session_id, target, keep_old)])
        if not isinstance(outcome, Fingerprint):
            raise outcome
        return outcome

    def publish_all(self, publications: Sequence[Publication]) -> list[Published]:
        """See the contract."""
        return self._tree.publish_all(publications)

    def finish(self, target: Target, inode: int) -> Fingerprint | None:
        """See the contract."""
        return self._tree.finish(target, inode)

    def published(self, target: Target) -> Fingerprint | None:
        """See the contract."""
        return self._tree.status(target)

    def open_published(self, target: Target) -> OpenFile | None:
        """See the contract."""
        return self._tree.open(target)

    def set_attributes(self, target: Target, attributes: Attributes) -> Fingerprint | None:
        """See the contract."""
        file = self._tree.open(target)
        if file is None:
            return None
        with contextlib.closing(file), file.held() as descriptor, disk_full_is_storage_full(DISK_FULL_TEXT):
            if not _has(os.fstat(descriptor), attributes):
                _set(descriptor, attributes)
                _sync(descriptor)
            return fingerprint(os.fstat(descriptor))

    def clone(self, target: Target, session_id: str) -> bool:
        """See the contract."""
        source = self._tree.open(target)
        if source is None:
            return False
        with (
            contextlib.closing(source),
            source.held() as published,
            _closing(self._descriptor(session_id)) as partial,
            disk_full_is_storage_full(DISK_FULL_TEXT),
        ):
            if os.fstat(published).st_size != os.fstat(partial).st_size:
                return False
            return share_content(published, partial)

    def walk(self, user: str | None = None) -> Iterator[tuple[Target, Fingerprint]]:
        """See the contract."""
        return self._tree.walk(user)

    def probe(self) -> None:
        """See the contract: a small file is written, synced and removed."""
        with disk_full_is_storage_full(DISK_FULL_TEXT):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with _closing(os.open(_PROBE, flags, 0o600, dir_fd=self._partials)) as descriptor:
                try:
                    os.pwrite(descriptor, _PROBE_BYTES, 0)
                    os.fdatasync(descriptor)  # a disk that takes bytes and keeps none is not ready
                    reached("storage.probe.written")
                finally:
                    with contextlib.suppress(FileNotFoundError):  # two probes at once share the file
                        os.unlink(_PROBE, dir_fd=self._partials)

    def close(self) -> None:
        """See the contract. A late call fails: the descriptors' numbers may be other files' by then."""
        self._partials = -1
        self._tree = Tree(-1, -1)
        self._held.close()


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has(found: os.stat_result, attributes: Attributes) -> bool:
    """Whether there is nothing to set: what a file has, it got from `_set`, durably, or not from us."""
    return attributes.modified_ns in (None, found.st_mtime_ns) and _has_mode(found, attributes)


def _has_mode(found: os.stat_result, attributes: Attributes) -> bool:
    return attributes.mode is None or _mode(attributes.mode) == stat.S_IMODE(found.st_mode)


def _mode(mode: int) -> int:
    return mode & 0o755 | 0o400


def _set(descriptor: int, attributes: Attributes) -> os.stat_result:
    """Set what is given; what it was before."""
    found = os.fstat(descriptor)
    if attributes.mode is not None and not _has_mode(found, attributes):
        os.fchmod(descriptor, _mode(attributes.mode))
    if attributes.modified_ns is not None:
        os.utime(descriptor, ns=(found.st_atime_ns, attributes.modified_ns))
    reached("storage.attributes.set")
    return found


def _sync(descriptor: int) -> None:
    """Bytes and metadata."""
    os.fsync(descriptor)
    reached("storage.attributes.synced")
