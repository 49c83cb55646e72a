"""Where bytes live: the contract. Every implementation passes `tests/storage/contract.py`.

A *partial* is a session's file in progress, named by the session ID. *Published* is what users see, one tree for
each user, at paths that `protocol.paths.check_path` allows. Every method blocks: callers keep them off an event loop.
Offsets and sizes are bytes. No room raises `errors.StorageFull` and leaves all that was there as it was.
Other failures of the disk are `OSError`, and the caller's to log; no message of this layer may reach a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from chunkyd.errors import StorageFull
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target


class PathConflict(Exception):
    """A folder that is not empty stands where the file should go; one that holds only empty folders is not empty."""


class FileInTheWay(PathConflict):
    """A file stands where a folder of the path should be, and is not to be put aside for it."""


class NameRefused(PathConflict):
    """The file system takes no such name: too long for it, or with characters it does not have."""


class Attributes(msgspec.Struct, frozen=True):
    """What a published file gets besides its bytes; None leaves what the system gives.

    `mode` is applied without setuid, setgid, sticky, group- and world-write; the owner can always read.
    """

    modified_ns: int | None = None
    mode: int | None = None


class Prepared(msgspec.Struct, frozen=True):
    """A partial whose bytes and attributes are durable, about to be renamed. `inode` identifies it after a crash."""

    inode: int


class NewFile(msgspec.Struct, frozen=True):
    """A small file whose bytes are all there."""

    session_id: str
    content: bytes | memoryview
    attributes: Attributes


class Publication(msgspec.Struct, frozen=True):
    """A prepared partial and where it goes; `keep_old` as in `Storage.publish`."""

    session_id: str
    target: Target
    keep_old: bool


class Partial(Protocol):
    """An open partial. Methods may be called from several threads at once."""

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        """Write all pieces on end from `offset` on, or raise; what a failed call wrote does not count."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; b"" only at the end of the file."""
        ...

    def sync(self) -> None:
        """Return when every byte written before the call survives a power cut (fdatasync).

        After one failure every later call on this open partial fails too: the kernel reports a lost page once, and
        to one caller only. Open it again, and count nothing that was not recorded before.
        """
        ...

    def flush_soon(self, start: int, stop: int) -> None:
        """Start writing [start, stop) back without waiting, so that a later `sync` has little to do; may do nothing."""
        ...

    def close(self) -> None:
        """Release the descriptor, once calls under way have returned; the partial stays. Later calls: ValueError."""
        ...


class Reader(Protocol):
    """An open published file."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; b"" at the end."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Of the open file itself, not of what its path names by now."""
        ...

    def close(self) -> None:
        """Release the descriptor."""
        ...


class Storage(Protocol):
    """The bytes of one server."""

    def create(self, session_id: str, size: int) -> bool:
        """Make an empty partial of `size` bytes, durable as a folder entry.

        True where the file system has set the space aside (fallocate(2)): then `free_bytes` no longer counts it.
        False where it cannot; never by writing zeros. Raises StorageFull where there is no room, leaving nothing;
        OSError (EFBIG) where the file system takes no file so big; FileExistsError where the partial is there.
        """
        ...

    def open(self, session_id: str) -> Partial:
        """Raises FileNotFoundError where the partial is gone, or something that is no file stands in its place."""
        ...

    def discard(self, session_id: str) -> None:
        """Remove the partial and free its space; one that is gone already is fine."""
        ...

    def partials(self) -> Iterator[str]:
        """The session IDs of all partials, for the clean-up of orphans at start."""
        ...

    def inode(self, session_id: str) -> int | None:
        """The partial's inode, or None where it is gone."""
        ...

    def free_bytes(self) -> int:
        """What the file system would still give to an ordinary process."""
        ...

    def prepare(self, session_id: str, attributes: Attributes) -> Prepared:
        """First step of publishing: set attributes, then sync bytes and metadata (fsync)."""
        ...

    def prepare_all(self, files: Sequence[NewFile]) -> list[Prepared | OSError | StorageFull]:
        """Make partials of exactly these bytes and attributes, prepared as by `prepare`: an outcome for each, in order.

        One that could not be made leaves nothing. Together they cost less than one by one.
        """
        ...

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        """Second step, after `Prepared` is recorded: make the folders, link the old aside, rename, sync the folders.

        Atomic and durable on return. Walks part by part (openat, O_NOFOLLOW): nothing outside the user's folder is
        ever touched, and a symbolic link in the way is treated as the old version it is, never followed.
        - Whatever is no folder and stands at the target, or in the way of one of its folders, is an old version.
          `keep_old`: it stays as `name.~N~` beside it, N the next free, the stem cut at a character so that the
          name fits 255 bytes. Else it is replaced. Whether old and new are equal is the caller's to know.
        - A folder at the target is removed if empty, else PathConflict, and nothing has changed.
        - NameRefused where the file system does not take a name of the path, and nothing has changed.
        Temporary names never lengthen the name. Returns the fingerprint of what is published now.
        Raises FileNotFoundError where the partial is gone. Publications on one storage never mix: each sees the whole
        effect of the one before. After a crash at any point, calling it again finishes what was begun, and keeps
        nothing twice; before the rename the target is as it was, and an old file in the way of a folder, where it is
        gone already, gives way to the publication that is recorded and will be finished.
        """
        ...

    def publish_all(
        self, publications: Sequence[Publication]
    ) -> list[Fingerprint | PathConflict | OSError | StorageFull]:
        """`publish` for each of them, in order: an outcome for each. One failure spoils no other.

        Neighbours in one folder share the way there and its sync.
        """
        ...

    def finish(self, target: Target, inode: int) -> Fingerprint | None:
        """After a crash, where the partial is gone: make the publication durable, and say whether this inode is there.

        A process that died between the rename and the sync of the folders leaves a file that everybody sees and a
        power cut can take back. The target's folder is synced, so that what is kept beside it is durable too. The
        fingerprint; None where another file stands there by now, or none.
        """
        ...

    def published(self, target: Target) -> Fingerprint | None:
        """The fingerprint of the regular file at the target; None where there is none (or a link, or a folder)."""
        ...

    def open_published(self, target: Target) -> Reader | None:
        """The regular file at the target, or None; no link is followed."""
        ...

    def set_attributes(self, target: Target, attributes: Attributes) -> Fingerprint | None:
        """Change only the attributes of the published file, durably; its fingerprint then, or None where it is gone."""
        ...

    def clone(self, target: Target, session_id: str) -> bool:
        """Make the (created) partial share the bytes of the published file (FICLONE); False where it cannot be done."""
        ...

    def walk(self, user: str | None = None) -> Iterator[tuple[Target, Fingerprint]]:
        """Every published regular file, for `verify` and for rebuilding a lost catalog."""
        ...

    def probe(self) -> None:
        """Raise OSError or StorageFull where nothing can be stored now (readiness)."""
        ...

    def close(self) -> None:
        """Release what is held, the owner's lock last."""
        ...
