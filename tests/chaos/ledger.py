"""Which versions have existed, by the path they are published under: nothing else may ever appear at the server."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict

_ASIDE = re.compile(rb"(?s)(.*)\.~(\d+)~")
_LONGEST_STEM = 240  # a longer name may be cut when it is kept as an old version


class Ledger:
    """Every content that any path ever had."""

    def __init__(self) -> None:
        self._of_path: dict[bytes, set[str]] = defaultdict(set)
        self._all: set[str] = set()

    def note(self, path: bytes, file_hash: str) -> None:
        """From now on the path may hold these bytes."""
        self._of_path[path].add(file_hash)
        self._all.add(file_hash)

    def knows(self, path: bytes, file_hash: str) -> bool:
        """Whether what is published at `path` was once there at the source; an old version is its file's."""
        if file_hash in self._of_path.get(path, ()):
            return True
        stem, number = aside(path)
        if number is None:
            return False
        return file_hash in (self._all if len(os.path.basename(path)) > _LONGEST_STEM else self._of_path.get(stem, ()))


def aside(path: bytes) -> tuple[bytes, int | None]:
    """The file that an old version belongs to, and its number; the path itself and None where it is no old version."""
    match = _ASIDE.fullmatch(path)
    return (match[1], int(match[2])) if match is not None else (path, None)


def hash_of(content: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(content).hexdigest()
