"""Publishing: the steps by which a partial becomes the file that a path names.

    reach the folder     part by part; a missing one is made, each entry synced into the folder above
    make way             an old file stays (a second link beside it), a file in the way of a folder moves away
    rename               the name changes from the old whole file to the new whole file, and is never missing
    sync                 the folder (by the caller)

Until the rename everything can be taken back, and is, when a step fails. A crash takes nothing back, and needs not:
the partial is still whole and recorded as publishing, so the start-up publishes again. What it meets then: folders
that exist but may not be durable (so every folder not known to be is synced, not only those made now); an old file
that has its second link already (found by its inode, kept once); a file in the way of a folder that is gone from its
name (kept: it is beside it; replaced: its place was given up to the very version that now follows).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat

from msgspec.structs import replace

from chunkyd.checkpoints import reached
from chunkyd.files import Fingerprint, fingerprint, told_as
from chunkyd.names import numbered_name
from chunkyd.storage.base import NameRefused, PathConflict
from chunkyd.storage.folders import NO_NAME, Walk, status
from chunkyd.storage.names import free_number

FOLDER_MODE = 0o755
LEFTOVER = b".old-"  # what these temporary names in the partials' folder begin with; no session ID does
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})  # busy: something is mounted there
_ASIDE = re.compile(rb"\.~([1-9][0-9]{0,17})~\Z")
_MAX_KNOWN = 100_000


class DurableFolders:
    """Which folders this process knows to be durable in the folder above them; asked under the tree's lock."""

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] = set()

    def ensure(self, above: int, below: int) -> None:
        """Sync the entry of `below`, unless that was done before."""
        found = os.fstat(below)
        identity = (found.st_dev, found.st_ino)
        if identity in self._known:
            return
        os.fsync(above)
        reached("storage.folder.synced")
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known.add(identity)

    def forget(self, found: os.stat_result) -> None:
        """A folder that was made just now: its inode number may have been another's, whoever removed that one."""
        self._known.discard((found.st_dev, found.st_ino))


class Placing:
    """One publication. `walk` starts at the folder of all users and ends, open, in the target's folder."""

    def __init__(self, walk: Walk, durable: DurableFolders, partials: int, partial: bytes) -> None:
        self._walk = walk
        self._durable = durable
        self._partials = partials
        self._partial = partial
        self._undo = contextlib.ExitStack()
        self._made: list[bytes] = []
        self._leftover = LEFTOVER + partial
        self._has_leftover = False
        self._above: int | None = None

    def place(self, names: list[bytes], name: bytes, *, keep_old: bool) -> Fingerprint:
        """All steps up to the rename; on an error, everything is as it was. `names[0]` is the user's folder.

        The fingerprint is that of what was placed, whoever takes it away or edits it at once: only the rename's own
        mark, the time of the change, is taken after it. It is held open meanwhile: of a file that is gone the inode's
        number may be the next one's.
        """
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        opened = os.open(self._partial, flags, dir_fd=self._partials)
        try:
            partial = os.fstat(opened)
            if not stat.S_ISREG(partial.st_mode):  # somebody's link or folder is no partial
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._partial)
            self._place(names, name, partial, keep_old)
            return replace(fingerprint(partial), ctime_ns=os.fstat(opened).st_ctime_ns)
        except OSError as error:
            if error.errno in NO_NAME:
                raise NameRefused(name) from error
            raise
        finally:
            os.close(opened)
            if self._above is not None:
                os.close(self._above)

    def _place(self, names: list[bytes], name: bytes, partial: os.stat_result, keep_old: bool) -> None:
        with self._undo:
            for index, folder in enumerate(names):
                self._enter(folder, keep_old, may_give_way=index > 0)
            old = status(name, self._walk.folder)
            if old is not None and os.path.samestat(old, partial):
                os.unlink(self._partial, dir_fd=self._partials)  # published already, and rename would do nothing
                reached("storage.publish.rejoined")
            else:
                if old is not None:
                    self._make_way(name, old, keep_old)
                reached("storage.publish.renaming")
                with _naming(name):
                    os.rename(self._partial, name, src_dir_fd=self._partials, dst_dir_fd=self._walk.folder)
                reached("storage.publish.renamed")
            self._undo.pop_all()

    def clean(self) -> None:
        """Free the replaced file that stood in the way of a folder; start-up does it after a crash, or a failure."""
        if self._has_leftover:
            reached("storage.replaced.freeing")
            with contextlib.suppress(OSError):
                os.unlink(self._leftover, dir_fd=self._partials)
            reached("storage.replaced.freed")

    def _enter(self, folder: bytes, keep_old: bool, *, may_give_way: bool) -> None:
        try:
            self._walk.down(folder, self._durable.ensure)
        except FileNotFoundError:
            self._make(folder)
        except NotADirectoryError:
            if not may_give_way:
                raise  # the administrator's: a user's folder is never a link or a file of ours
            self._move_away(folder, keep_old)
            self._make(folder)

    def _make(self, folder: bytes) -> None:
        with _naming(folder):
            os.mkdir(folder, FOLDER_MODE, dir_fd=self._walk.folder)
        reached("storage.folder.made")
        try:
            self._durable.forget(os.stat(folder, dir_fd=self._walk.folder, follow_symlinks=False))
            self._walk.down(folder, self._durable.ensure)
        except BaseException:
            os.rmdir(folder, dir_fd=self._walk.folder)
            raise
        if not self._made:
            self._undo.callback(self._unmake)
        self._made.append(folder)

    def _unmake(self) -> None:
        with contextlib.suppress(OSError):
            for folder in reversed(self._made):
                self._walk.up()
                os.rmdir(folder, dir_fd=self._walk.folder)

    def _move_away(self, name: bytes, keep_old: bool) -> None:
        """Free a name that has to become a folder."""
        self._above = above = os.dup(self._walk.folder)  # to take it back, when the walk has gone on
        if keep_old:
            old = os.stat(name, dir_fd=above, follow_symlinks=False)
            place, aside = above, self._keep(name, old)
            with contextlib.suppress(FileNotFoundError):  # moved, where the file system has no hard links
                os.unlink(name, dir_fd=above)
            reached("storage.way.kept")
        else:
            place, aside = self._partials, self._leftover
            os.rename(name, aside, src_dir_fd=above, dst_dir_fd=place)
            self._has_leftover = True
            reached("storage.way.cleared")
        self._undo.callback(_move_back, place, aside, above, name)

    def _make_way(self, name: bytes, old: os.stat_result, keep_old: bool) -> None:
        """Prepare the rename over what stands at the target."""
        folder = self._walk.folder
        if stat.S_ISDIR(old.st_mode):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno in _NOT_EMPTY:
                    raise PathConflict(name) from error
                raise
            reached("storage.way.emptied")
            self._undo.callback(_quietly_make, name, stat.S_IMODE(old.st_mode), folder)
        elif keep_old:
            aside = self._keep(name, old)
            self._undo.callback(_move_back, folder, aside, folder, name)

    def _keep(self, name: bytes, old: os.stat_result) -> bytes:
        """Give the old version its second name; its first one is gone only where there are no hard links."""
        folder = self._walk.folder
        if old.st_nlink > 1:
            before = _kept_before(folder, name, old)
            if before is not None:
                return before
        number = free_number(lambda number: status(numbered_name(name, number), folder) is not None)
        aside = numbered_name(name, number)
        try:
            os.link(name, aside, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        reached("storage.old.kept")
        return aside


def _naming(name: bytes) -> told_as:
    """Where a name is given, EINVAL is about the name: vfat and others lack some characters."""
    return told_as({errno.EINVAL}, lambda error: NameRefused(name))


def _kept_before(folder: int, name: bytes, old: os.stat_result) -> bytes | None:
    """The second name that a publication cut short gave this very file."""
    for entry in os.listdir(folder):
        other = os.fsencode(entry)
        number = _ASIDE.search(other)
        if number is not None and other == numbered_name(name, int(number.group(1))):
            found = status(other, folder)
            if found is not None and os.path.samestat(found, old):
                return other
    return None


def _move_back(place: int, aside: bytes, folder: int, name: bytes) -> None:
    """Undo: the old file under its old name, and only there; never at the price of its last name."""
    with contextlib.suppress(OSError):
        now = status(name, folder)
        if now is None:
            os.rename(aside, name, src_dir_fd=place, dst_dir_fd=folder)
        elif os.path.samestat(now, os.stat(aside, dir_fd=place, follow_symlinks=False)):
            os.unlink(aside, dir_fd=place)


def _quietly_make(name: bytes, mode: int, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.mkdir(name, mode, dir_fd=folder)
