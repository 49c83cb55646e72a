"""Reading one directory: opened without following a symlink, streamed in batches, names as bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from chunkyd.files import Fingerprint, fingerprint, folder_below, open_folder_below

_BATCH = 500
_NAMES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # as os.fsencode has it, which looks twice


class Batch(msgspec.Struct):
    """Some entries of a directory: `special` are symlinks, FIFOs, sockets, devices; `unreadable` gave an error."""

    files: list[tuple[bytes, Fingerprint]] = []
    directories: list[bytes] = []
    special: list[bytes] = []
    unreadable: list[bytes] = []


def open_directory(root: bytes, directory: bytes) -> int:
    """A descriptor of a directory below the root; a symlink in its place, or above it, is ENOTDIR."""
    found = open_folder_below(root, directory)
    try:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
    finally:
        os.close(found)


def entries(descriptor: int) -> Iterator[Batch]:
    """All entries of an open directory, some hundred at a time; it stays open. OSError where reading fails.

    One batch at least: whoever takes them does other things in between, in a tree of empty directories too.
    """
    with os.scandir(descriptor) as found:
        while True:
            some = list(islice(found, _BATCH))
            yield _sorted(some)
            if len(some) < _BATCH:
                return


def _sorted(found: Iterable[os.DirEntry[str]]) -> Batch:
    """This is done for each of a hundred thousand files that have not changed: no call more than it needs."""
    batch = Batch()
    for entry in found:
        name = entry.name.encode(*_NAMES)
        try:
            if entry.is_file(follow_symlinks=False):
                batch.files.append((name, fingerprint(entry.stat(follow_symlinks=False))))
            elif entry.is_dir(follow_symlinks=False):
                batch.directories.append(name)
            else:
                batch.special.append(name)
        except FileNotFoundError:
            continue  # it went between reading its name and looking at it
        except OSError:
            batch.unreadable.append(name)
    return batch


def stands_below(root: bytes, directory: bytes) -> bool:
    """Whether every step from the root down to this directory is a directory itself, and no symlink elsewhere."""
    try:
        with folder_below(root, directory):
            return True
    except OSError:
        return False
