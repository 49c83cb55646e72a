"""What the watcher takes and gives: its folders, its findings, and what the daemon does with them.

Paths of files are bytes below the root, '/'-separated: a name that is not UTF-8 is as good as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from chunkyd.files import Fingerprint

State = Literal["watching", "polling", "missing", "scanning", "degraded"]


class WatchedRoot(msgspec.Struct, frozen=True):
    """A folder to watch. `settle` and `rescan` are seconds (`rescan` 0: never); `poll` None means: find out."""

    name: str
    path: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    settle: float = 5.0
    rescan: float = 3600.0
    poll: bool | None = None


class Settled(msgspec.Struct, frozen=True):
    """A file that has been left alone for its folder's settle time, in this version."""

    folder: str
    path: bytes
    fingerprint: Fingerprint


class RootStatus(msgspec.Struct, frozen=True):
    """How a folder fares. `changing` files are being written for so long that they are worth a word.

    `skipped` counts what the last full scan could not or would not take: symlinks, FIFOs, sockets, devices, and what
    could not be read. `last_scan` is wall time.
    """

    folder: str
    path: str
    state: State
    problem: str = ""
    mend: str = ""
    files: int = 0
    directories: int = 0
    settling: int = 0
    changing: int = 0
    changing_paths: tuple[bytes, ...] = ()
    last_scan: float | None = None
    skipped: int = 0
    stable_inodes: bool = True


class Knowledge(Protocol):
    """What need not be reported again; the daemon answers from the job table."""

    def versions(self, folder: str, directories: Sequence[bytes]) -> Mapping[bytes, Mapping[bytes, Fingerprint]]:
        """Directory → name → version already queued or sent, of the files directly in these directories.

        The first is always in the answer; others may be left out, and are asked for again. May raise StateError.
        """
        ...


class Sink(Protocol):
    """Where findings go; called from the watcher's threads, one call at a time for each folder, in order.

    A call that raises an EnvironmentFailure (StateError, StorageFull) is made again later: nothing is lost.
    """

    def settled(self, changes: Sequence[Settled]) -> None:
        """These versions are ready. Found by an event they may be known already: a scan asks first, an event not."""
        ...

    def scanned(self, folder: str) -> None:
        """A full scan has ended, and the root was the same folder before and after."""
        ...

    def left_behind(self, folder: str, path: bytes) -> None:
        """A scan came across a file under a name that the daemon itself gives; never one to send as it is."""
        ...

    def gone(self, folder: str, path: bytes) -> None:
        """A file or a directory was deleted or moved away while the root itself was there. A hint only."""
        ...

    def root_missing(self, folder: str) -> None:
        """The root is not there, or is another folder than before: nothing in it counts as deleted."""
        ...

    def root_back(self, folder: str) -> None:
        """The root is there: said at the start, on its return, and after `root_missing` for a new one in its place."""
        ...
