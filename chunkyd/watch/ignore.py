"""Which files and directories are left out: gitignore patterns on the path below the root.

The last pattern that matches decides, so the user's `!*.part` takes back the default `*.part`. A directory left out is
not entered, as in git: nothing below it can be taken back. What the daemon itself lays down is never a file to send.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from chunkyd.errors import ConfigError
from chunkyd.settings.patterns import compiled

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

DEFAULT_EXCLUDES = (
    "*.part",
    "*.crdownload",
    "*~",
    ".*.swp",
    ".~lock.*#",
    "\\#*#",
    ".#*",
    ".goutputstream-*",
)
OWN_PREFIX = b".chunkyd-"


class Ignore:
    """The patterns of one folder."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._include = _spec(include) if include else None
        self._exclude = _spec((*DEFAULT_EXCLUDES, *exclude))

    def file(self, path: bytes) -> bool:
        """Whether a file is left out: excluded, or not among those included."""
        if is_own(path):
            return True
        text = _text(path)
        if self._include is not None and not self._include.match_file(text):
            return True
        return self._exclude.match_file(text)

    def directory(self, path: bytes) -> bool:
        """Whether a directory is left out, with all that is below it."""
        return is_own(path) or self._exclude.match_file(_text(path) + "/")


def is_own(path: bytes) -> bool:
    """Whether the daemon itself gives such names."""
    return path.rpartition(b"/")[2].startswith(OWN_PREFIX)


def _text(path: bytes) -> str:
    # The patterns become regular expressions whose dot stops at a newline, and whose end matches before one.
    return os.fsdecode(path).replace("\n", "\r")


def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    try:
        return compiled(patterns)
    except ValueError as error:
        raise ConfigError(str(error), mend="Write it as in a .gitignore file") from error
