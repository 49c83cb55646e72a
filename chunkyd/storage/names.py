"""Which names the storage makes: the name an old version is kept under, and what may name a session or a user.

Pure. A kept version never gets a longer name than a file system takes: the stem is cut, at a character.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from chunkyd.protocol.paths import MAX_PART_BYTES

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


def aside_name(name: bytes, number: int) -> bytes:
    """What the old version of `name` is kept as: `name.~number~`, the stem cut so that it fits 255 bytes."""
    ending = b".~%d~" % number
    return _cut(name, MAX_PART_BYTES - len(ending)) + ending


def _cut(name: bytes, length: int) -> bytes:
    """The first `length` bytes at most, without half a character; a name that is not UTF-8 is cut at a byte."""
    if len(name) <= length:
        return name
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return name[:length]
    return name[:length].decode("utf-8", "ignore").encode("utf-8")


def session_name(session_id: str) -> str:
    """The session ID itself, where it can name a file; ValueError, else: no ID of ours looks otherwise."""
    if _SESSION_ID.fullmatch(session_id) is None:
        raise ValueError("not a session ID")
    return session_id


def user_name(user: str) -> bytes:
    """The name of the user's folder; ValueError where the name could lead out of it."""
    names = path_names(user.encode("utf-8"))
    if len(names) != 1:
        raise ValueError("not a user's name")
    return names[0]


def path_names(path: bytes) -> list[bytes]:
    """The parts of a published path; ValueError where one could lead astray.

    Its whole length is not judged: the kept version of the longest path the protocol allows is a little longer.
    """
    names = path.split(b"/")
    for name in names:
        if name in (b"", b".", b"..") or b"\0" in name or len(name) > MAX_PART_BYTES:
            raise ValueError("not a published path")
    return names


def parents(path: bytes) -> list[bytes]:
    """The folders above a path, the nearest to the root first: `a/b/c` → `a`, `a/b`."""
    return [path[:index] for index in range(len(path)) if path[index : index + 1] == b"/"]


def free_number(taken: Callable[[int], bool]) -> int:
    """The number behind the kept ones, found by doubling and halving: a thousand versions cost twenty questions."""
    high = 1
    while taken(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    return high
