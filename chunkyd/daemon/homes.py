"""Which root a job was found under: an unplugged disk or a replaced folder is never taken for a deletion.

A root's identity is (file system ID, inode): unlike device numbers it is the same after a reboot, and unlike the inode
alone it tells two disks mounted at one place apart. A job's home is the identity its folder had when the job was made.
Only a file that is missing under its own home has been deleted; missing under another root, it is merely elsewhere.
"""

from __future__ import annotations

import os
import threading

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import StateError
from chunkyd.files import atomic_write, disk_full_is_storage_full

_NAME = "roots.json"
_KEPT = 32  # identities remembered for each folder; older ones belong to jobs long finished

Identity = tuple[int, int]


class _Home(msgspec.Struct, frozen=True):
    since: float  # wall-clock seconds
    identity: Identity


def root_identity(path: str) -> Identity | None:
    """The identity of the folder at this path; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fstatvfs(descriptor).f_fsid, os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


class Homes:
    """Remembers, durably, which identities each folder's root has had, and since when."""

    def __init__(self, state_dir: str, clock: Clock) -> None:
        self._path = os.path.join(state_dir, _NAME)
        self._clock = clock
        self._lock = threading.Lock()
        self._homes = self._load()

    def _load(self) -> dict[str, list[_Home]]:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, list[_Home]])
        except (OSError, UnicodeDecodeError, msgspec.DecodeError):
            # Without this memory every root is at home: a job made under a disk that is away now would count as
            # deleted, cancelled as source-gone, and be queued again as soon as its file is back. Nothing is lost.
            return {}

    def at_home(self, folder: str, root: str, created: float) -> bool:
        """Whether the folder's root is, now, the one that a job created then was found under."""
        identity = self.seen(folder, root)
        with self._lock:
            homes = [home for home in self._homes.get(folder, []) if home.since <= created]
            return identity is not None and (not homes or homes[-1].identity == identity)

    def always_the_same(self, folder: str, root: str) -> bool:
        """Whether the root is there now and has never been another: every job of the folder is at home."""
        identity = self.seen(folder, root)
        with self._lock:
            return identity is not None and len(self._homes.get(folder, [])) == 1

    def seen(self, folder: str, root: str) -> Identity | None:
        """The root's identity as it is now; a new one is written down before anyone relies on it."""
        identity = root_identity(root)
        with self._lock:
            homes = self._homes.get(folder, [])
            if identity is not None and (not homes or homes[-1].identity != identity):
                since = self._clock.wall() if homes else 0.0
                grown = {**self._homes, folder: [*homes, _Home(since, identity)][-_KEPT:]}
                reached("daemon.home.seen")
                self._write(grown)
                self._homes = grown
        return identity

    def _write(self, homes: dict[str, list[_Home]]) -> None:
        try:
            with disk_full_is_storage_full(f"{self._path} cannot be written"):
                atomic_write(self._path, msgspec.json.encode(homes))
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be written: {error.strerror}", mend="make the state folder writable for this user"
            ) from error
