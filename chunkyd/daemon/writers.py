"""Whether anyone has a file open for writing, where the kernel gives no lease: by looking through /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def open_for_writing(inode: tuple[int, int]) -> bool:
    """Whether a process whose descriptors we may see has this (device, inode) open for writing.

    Costs a walk of /proc; without root only the own user's processes can be seen, which docs/operations.md says.
    """
    return any(_writes(pid, number, inode) for pid in _processes() for number in _descriptors(pid))


def _processes() -> Iterator[str]:
    yield from (entry for entry in os.listdir("/proc") if entry.isdigit())


def _descriptors(pid: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it ended meanwhile, or is not ours to see
        return []


def _writes(pid: str, number: str, inode: tuple[int, int]) -> bool:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        status = os.stat(f"/proc/{pid}/fd/{number}")
        if (status.st_dev, status.st_ino) != inode:
            return False
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as lines:
            flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
        return flags & os.O_ACCMODE != os.O_RDONLY
    return False
