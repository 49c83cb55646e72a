"""The published files of a data folder: `files/<user>/…`."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator

from chunkyd.checkpoints import reached
from chunkyd.files import Fingerprint, disk_full_is_storage_full, fingerprint
from chunkyd.protocol.paths import Target, check_path
from chunkyd.storage.folders import Walk, opened_folder, regular_files, status
from chunkyd.storage.names import path_names, user_name
from chunkyd.storage.opened import DISK_FULL_TEXT, OpenFile
from chunkyd.storage.placing import DurableFolders, Placing


class Tree:
    """The published files below one open folder. `partials` is where a file comes from, on the same file system."""

    def __init__(self, files: int, partials: int) -> None:
        self._files = files
        self._partials = partials
        self._durable = DurableFolders()
        self._lock = threading.Lock()  # one publication at a time moves names

    def publish(self, partial: bytes, target: Target, *, keep_old: bool) -> Fingerprint:
        """See `Storage.publish`; `partial` is a name in the folder of partials."""
        check_path(target.path)
        *names, name = _names(target)
        with contextlib.closing(Walk(self._files)) as walk, disk_full_is_storage_full(DISK_FULL_TEXT):
            with self._lock:
                placing = Placing(walk, self._durable, self._partials, partial)
                placing.place(names, name, keep_old=keep_old)
                published = os.stat(name, dir_fd=walk.folder, follow_symlinks=False)
            # The partials' folder needs no sync: a partial that comes back after a power cut is the published inode.
            os.fsync(walk.folder)
            reached("storage.publish.synced")
        placing.clean()
        return fingerprint(published)

    def finish(self, target: Target, inode: int) -> Fingerprint | None:
        """See `Storage.finish`."""
        *names, name = _names(target)
        with contextlib.closing(Walk(self._files)) as walk:
            with self._lock:
                if not walk.along(names, self._durable.ensure):
                    return None
                found = status(name, walk.folder)
            if found is None or found.st_ino != inode or not stat.S_ISREG(found.st_mode):
                return None
            os.fsync(walk.folder)
            reached("storage.finish.synced")
        return fingerprint(found)

    @contextlib.contextmanager
    def _found(self, target: Target) -> Iterator[tuple[int, bytes] | None]:
        """The folder and name of the regular file at the target, or None."""
        *names, name = _names(target)
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(opened_folder(self._files, names))
            except (FileNotFoundError, NotADirectoryError):
                yield None
                return
            found = status(name, folder)
            yield (folder, name) if found is not None and stat.S_ISREG(found.st_mode) else None

    def status(self, target: Target) -> Fingerprint | None:
        """The fingerprint of the regular file at the target."""
        with self._found(target) as found:
            return fingerprint(os.stat(found[1], dir_fd=found[0], follow_symlinks=False)) if found is not None else None

    def open(self, target: Target) -> OpenFile | None:
        """The regular file at the target; no link is followed."""
        with self._found(target) as found:
            if found is None:
                return None
            folder, name = found
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return OpenFile(os.open(name, flags, dir_fd=folder))

    def walk(self, user: str | None) -> Iterator[tuple[Target, Fingerprint]]:
        """Every published regular file."""
        users = [user] if user is not None else self._users()
        for owner in users:
            for (_, *names), found in regular_files(self._files, (user_name(owner),)):
                yield Target(owner, b"/".join(names)), fingerprint(found)

    def _users(self) -> list[str]:
        """A folder whose name is not UTF-8 is no user's."""
        names = [os.fsencode(name) for name in os.listdir(self._files)]
        return [decoded for name in names if (decoded := name.decode("utf-8", "ignore")).encode() == name]


def _names(target: Target) -> list[bytes]:
    return [user_name(target.user), *path_names(target.path)]
