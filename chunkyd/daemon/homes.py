"""Which root a job was found under: an unplugged disk or a replaced folder is never taken for a deletion.

- A root's identity is (file system ID, inode): unlike device numbers it is the same after a reboot, and unlike the
  inode alone it tells two disks mounted at one place apart.
- A job's home is the identity its folder had when the job was made. Jobs are numbered in that order, so a home is
  remembered with the number of the last job before it: the clock may be set as it likes.
- Only a file that is missing under its own home has been deleted; missing under another root, it is merely elsewhere.
- So it is where its file was on a disk mounted below the root, and none is mounted there now: the devices that the root
  itself has had are remembered too, since they change with a reboot.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.errors import StateError
from chunkyd.files import atomic_write, disk_full_is_storage_full

_NAME = "roots.json"
_KEPT = 32  # identities remembered for each folder; older ones belong to jobs long finished

Identity = tuple[int, int]


class Root(msgspec.Struct, frozen=True):
    """What stands at a root's path; `device` is its number in this run of the system."""

    identity: Identity
    device: int


class _Home(msgspec.Struct, frozen=True):
    after: int  # the last job before it
    identity: Identity
    devices: tuple[int, ...]


def root_at(path: str) -> Root | None:
    """The root at this path; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        return Root((os.fstatvfs(descriptor).f_fsid, status.st_ino), status.st_dev)
    finally:
        os.close(descriptor)


class Homes:
    """Remembers, durably, which identities each folder's root has had, and since when."""

    def __init__(self, state_dir: str, last_job: Callable[[], int]) -> None:
        self._path = os.path.join(state_dir, _NAME)
        self._last_job = last_job
        self._lock = threading.Lock()
        self._homes = self._load()

    def _load(self) -> dict[str, list[_Home]]:
        try:
            with open(self._path, "rb") as file:
                homes = msgspec.convert(json.load(file), type=dict[str, list[_Home]])
        except (OSError, ValueError, RecursionError):
            # Without this memory every root is at home: a job made under a disk that is away now would count as
            # deleted, cancelled as source-gone, and be queued again as soon as its file is back. Nothing is lost.
            return {}
        last = self._last_job()
        if any(home.after > last for each in homes.values() for home in each):
            return {}  # it speaks of a job table that is no more
        return homes

    def is_home(self, folder: str, job_id: int, root: Root | None) -> bool:
        """Whether this root is the one that the job was found under."""
        with self._lock:
            home = self._home(folder, job_id)
        return root is not None and (home is None or home.identity == root.identity)

    def devices(self, folder: str, job_id: int) -> tuple[int, ...]:
        """The device numbers that the job's home has had; a file that had another was on a disk mounted below it."""
        with self._lock:
            home = self._home(folder, job_id)
        return home.devices if home is not None else ()

    def _home(self, folder: str, job_id: int) -> _Home | None:
        return next((home for home in reversed(self._homes.get(folder, [])) if home.after < job_id), None)

    def only(self, folder: str, path: str) -> tuple[int, ...] | None:
        """The devices of a root that is there now and has never been another: every job of the folder is at home."""
        root = self.seen(folder, path)
        with self._lock:
            homes = self._homes.get(folder, [])
            return homes[0].devices if root is not None and len(homes) == 1 else None

    def seen(self, folder: str, path: str) -> Root | None:
        """The root as it is now; one that is new is written down before anyone relies on it."""
        root = root_at(path)
        with self._lock:
            homes = self._homes.get(folder, [])
            if root is not None and not (homes and _is_known(homes[-1], root)):
                grown = {**self._homes, folder: self._grown(homes, root)[-_KEPT:]}
                reached("daemon.home.seen")
                self._write(grown)
                self._homes = grown
        return root

    def _grown(self, homes: list[_Home], root: Root) -> list[_Home]:
        if homes and homes[-1].identity == root.identity:
            last = homes[-1]
            return [*homes[:-1], _Home(last.after, last.identity, (*last.devices, root.device)[-_KEPT:])]
        return [*homes, _Home(self._last_job() if homes else 0, root.identity, (root.device,))]

    def _write(self, homes: dict[str, list[_Home]]) -> None:
        try:
            with disk_full_is_storage_full(f"{self._path} cannot be written"):
                # Not msgspec's own encoder: a folder's name need not be UTF-8.
                atomic_write(self._path, json.dumps(msgspec.to_builtins(homes)).encode("ascii"))
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be written: {error.strerror}", mend="make the state folder writable for this user"
            ) from error


def _is_known(home: _Home, root: Root) -> bool:
    return home.identity == root.identity and root.device in home.devices
