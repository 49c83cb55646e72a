"""gitignore patterns, as they stand in a list: the one place that compiles them, so that a wrong one has a line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


def compiled(patterns: Iterable[str]) -> GitIgnoreSpec:
    """The patterns as one that matches; ValueError, with a sentence, where one cannot be understood."""
    from pathspec import GitIgnoreSpec  # a tenth of a second: chunkyctl reads settings too

    written = [_literal_hash(pattern) for pattern in patterns]
    try:
        return GitIgnoreSpec.from_lines(written)
    except (ValueError, re.error) as error:  # a range like [z-a] is found by the regular expression it becomes
        raise ValueError(f"a pattern cannot be understood: {error}") from error


def _literal_hash(pattern: str) -> str:
    # In a .gitignore file a leading # is a comment; in a list of patterns it is a name.
    return "\\" + pattern if pattern.startswith("#") else pattern
