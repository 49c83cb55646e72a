"""The root of a watched folder: which folder it is, and what its file system can be trusted with.

- A root is its device and inode. Renamed, replaced or unmounted it is another one or none, and then nothing below it
  may be taken for deleted.
- A network file system sends no events for what others do: it is polled. So is FUSE, which mostly is one underneath.
- FAT and FUSE give a file another inode at the next mount, and times two seconds apart: there size and mtime decide.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import msgspec

from chunkyd.files import Fingerprint

MOUNTINFO = "/proc/self/mountinfo"
_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    ]
)
_UNSTABLE = frozenset(["9p", "cifs", "exfat", "fuse", "fuseblk", "msdos", "smb3", "smbfs", "vboxsf", "vfat", "vmhgfs"])
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Identity(msgspec.Struct, frozen=True):
    """Which folder it is, as long as the system runs."""

    device: int
    inode: int


class Look(msgspec.Struct, frozen=True):
    """What stands at the root's path: a folder, or a `problem` in words."""

    identity: Identity | None
    problem: str = ""


class FileSystem(msgspec.Struct, frozen=True):
    """What the file system under a root is good for."""

    kind: str
    network: bool
    stable_inodes: bool

    @property
    def trusted_times(self) -> bool:
        """Whether a file's times come from this machine's clock, finely grained."""
        return self.stable_inodes and not self.network

    def quiet(self, found: Fingerprint, wall: float) -> float:
        """For how many seconds a file has been left alone by its own times; 0 where they cannot be trusted.

        Negative: only in so many seconds its times begin to prove anything.
        """
        if not self.trusted_times:
            return 0.0
        # ctime alone: no program can set it back, and every write sets it. One of whole seconds may be the kernel's
        # last word for all of that second (ext4 with small inodes, HFS+): a write later in it leaves the same time.
        grain = 0.0 if found.ctime_ns % 1_000_000_000 else 1.0
        return max(-grain, wall - found.ctime_ns / 1e9 - grain)


def identity(status: os.stat_result) -> Identity:
    """The identity in a stat result."""
    return Identity(status.st_dev, status.st_ino)


def look(path: bytes) -> Look:
    """What stands at this path now. A root may be a symlink; what it points to counts."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Look(None, f"the folder cannot be reached: {os.strerror(error.errno or 0)}")
    if not stat.S_ISDIR(status.st_mode):
        return Look(None, "this is not a folder")
    return Look(identity(status))


def file_system(path: bytes, mountinfo: str = MOUNTINFO) -> FileSystem:
    """The file system `path` stands on, by the longest mount point above it; unknown counts as a local one."""
    kind = _kind(os.path.realpath(path), mountinfo)
    family = kind.partition(".")[0]
    return FileSystem(kind, family in _NETWORK, family not in _UNSTABLE)


def mounts_below(path: bytes, mountinfo: str = MOUNTINFO) -> tuple[bytes, ...]:
    """Where file systems are mounted at this folder and below it."""
    root = os.path.realpath(path)
    return tuple(point for point, _ in _mounts(mountinfo) if _is_below(point, root))


def _kind(path: bytes, mountinfo: str) -> str:
    best, kind = b"", ""
    for point, found in _mounts(mountinfo):
        # Of two mounts at one point the later hides the earlier.
        if len(point) >= len(best) and _is_below(path, point):
            best, kind = point, found
    return kind


def _mounts(mountinfo: str) -> Iterator[tuple[bytes, str]]:
    """Mount points and the kinds of what is mounted there; none where they cannot be read."""
    try:
        with open(mountinfo, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        yield point, after.split(b" ")[0].decode("ascii", "replace")


def _is_below(path: bytes, point: bytes) -> bool:
    return path == point or path.startswith(point.rstrip(b"/") + b"/")
