"""What of a root could not be read: the first few are named in its status, and every directory is tried again."""

from __future__ import annotations

_NAMED = 20


class Unreadable:
    """`named`: path → why, of some. `directories`: all that are to be tried again; nothing may ever tell of them."""

    def __init__(self) -> None:
        self.named: dict[bytes, str] = {}
        self.directories: set[bytes] = set()

    def remember(self, path: bytes, why: str) -> None:
        """It could not be read."""
        if len(self.named) < _NAMED:
            self.named[path] = why

    def forget(self, path: bytes) -> None:
        """It was read, or is not there."""
        self.named.pop(path, None)
        self.directories.discard(path)

    def clear(self) -> None:
        """All is looked at anew."""
        self.named.clear()
        self.directories.clear()
