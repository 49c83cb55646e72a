"""What may name a session, a user or a published file, and which numbered name is free. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from chunkyd.protocol.paths import MAX_PART_BYTES

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


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
