"""Reading one directory: opened without following a symlink, streamed in batches, names as bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from chunkyd.files import Fingerprint, fingerprint, folder_below

_BATCH = 500


class Batch(msgspec.Struct):
    """Some entries of a directory: `special` are symlinks, FIFOs, sockets, devices; `unreadable` gave an error."""

    files: list[tuple[bytes, Fingerprint]] = []
    directories: list[bytes] = []
    special: list[bytes] = []
    unreadable: list[bytes] = []

    def full(self) -> bool:
        """Whether it is time to do something else in between."""
        return len(self.files) + len(self.directories) + len(self.special) >= _BATCH


def open_directory(root: bytes, directory: bytes) -> int:
    """A descriptor of a directory below the root; a symlink in its place, or above it, is ENOTDIR."""
    with folder_below(root, directory) as found:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)


def entries(descriptor: int) -> Iterator[Batch]:
    """All entries of an open directory, some hundred at a time; it stays open. OSError where reading fails."""
    batch = Batch()
    with os.scandir(descriptor) as found:
        for entry in found:
            _sort(entry, batch)
            if batch.full():
                yield batch
                batch = Batch()
    yield batch


def _sort(entry: os.DirEntry[str], batch: Batch) -> None:
    name = os.fsencode(entry.name)
    try:
        if entry.is_dir(follow_symlinks=False):
            batch.directories.append(name)
        elif entry.is_file(follow_symlinks=False):
            batch.files.append((name, fingerprint(entry.stat(follow_symlinks=False))))
        else:
            batch.special.append(name)
    except FileNotFoundError:
        return  # it went between reading its name and looking at it
    except OSError:
        batch.unreadable.append(name)


def stands_below(root: bytes, directory: bytes) -> bool:
    """Whether every step from the root down to this directory is a directory itself, and no symlink elsewhere."""
    try:
        with folder_below(root, directory):
            return True
    except OSError:
        return False
