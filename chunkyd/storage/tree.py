"""The published files of a data folder: `files/<user>/…`."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Iterator, Sequence

from chunkyd.checkpoints import reached
from chunkyd.errors import StorageFull
from chunkyd.files import Fingerprint, disk_full_is_storage_full, fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import PathConflict, Publication
from chunkyd.storage.folders import Walk, leads_nowhere, opened_folder, regular_files, status
from chunkyd.storage.names import path_names, session_name, user_name
from chunkyd.storage.opened import DISK_FULL_TEXT, OpenFile
from chunkyd.storage.placing import DurableFolders, Placing
from chunkyd.turns import in_turn

Published = Fingerprint | PathConflict | OSError | StorageFull


class Tree:
    """The published files below one open folder. `partials` is where a file comes from, on the same file system."""

    def __init__(self, files: int, partials: int) -> None:
        self._files = files
        self._partials = partials
        self._durable = DurableFolders()
        self._lock = threading.Lock()  # one publication at a time moves names

    def publish_all(self, publications: Sequence[Publication]) -> list[Published]:
        """See `Storage.publish_all`."""
        outcomes: list[Published] = []
        for names, together in itertools.groupby(publications, _folder_names):
            waiting = list(together)
            while waiting:
                try:
                    done = self._visit(names, waiting)
                except OSError as error:  # before anything was placed: no descriptor is left, say
                    done = [error]
                outcomes += done
                waiting = waiting[len(done) :]
        return outcomes

    def _visit(self, names: list[bytes], publications: list[Publication]) -> list[Published]:
        """Place one behind the other in one folder, up to the first that fails, and sync the folder once."""
        placings: list[Placing] = []
        found: list[Published] = []
        failed: list[Published] = []
        with contextlib.closing(Walk(self._files)) as walk:
            with self._lock, in_turn():
                for publication in publications:
                    placing = Placing(
                        walk, self._durable, self._partials, session_name(publication.session_id).encode()
                    )
                    name = path_names(publication.target.path)[-1]
                    try:
                        with disk_full_is_storage_full(DISK_FULL_TEXT):
                            placed = placing.place([] if placings else names, name, keep_old=publication.keep_old)
                    except (PathConflict, OSError, StorageFull) as error:
                        failed = [error]
                        break
                    placings.append(placing)
                    found.append(placed)
            # The partials' folder needs no sync: a partial that comes back after a power cut is the published inode.
            try:
                os.fsync(walk.folder)
            except OSError as error:
                return [error] * len(placings) + failed
            reached("storage.publish.synced")
        for placing in placings:
            placing.clean()
        return found + failed

    def finish(self, target: Target, inode: int) -> Fingerprint | None:
        """See `Storage.finish`."""
        *names, name = _names(target)
        with contextlib.closing(Walk(self._files)) as walk:
            with self._lock:
                if not walk.along(names, self._durable.ensure):
                    return None
                found = status(name, walk.folder)
            os.fsync(walk.folder)
            reached("storage.finish.synced")
        if found is None or found.st_ino != inode or not stat.S_ISREG(found.st_mode):
            return None
        return fingerprint(found)

    @contextlib.contextmanager
    def _found(self, target: Target) -> Iterator[tuple[int, bytes] | None]:
        """The folder and name of the regular file at the target, or None."""
        *names, name = _names(target)
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(opened_folder(self._files, names))
            except OSError as error:
                if not leads_nowhere(error):
                    raise
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


def _folder_names(publication: Publication) -> list[bytes]:
    return _names(publication.target)[:-1]


def _names(target: Target) -> list[bytes]:
    return [user_name(target.user), *path_names(target.path)]
