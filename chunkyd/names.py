"""Names of files that are made out of other names, and have to fit where those fitted. Pure."""

from __future__ import annotations

LONGEST_NAME = 255  # bytes; some file systems take less (eCryptfs: 143)


def numbered_name(name: bytes, number: int) -> bytes:
    """`name.~number~`, for a version that is kept beside another; the stem is cut so that it fits."""
    return with_ending(name, b".~%d~" % number)


def with_ending(name: bytes, ending: bytes) -> bytes:
    """The name with an ending, its stem cut so that it fits."""
    return cut(name, LONGEST_NAME - len(ending)) + ending


def cut(name: bytes, length: int) -> bytes:
    """The first `length` bytes at most, without half a character; a name that is not UTF-8 is cut at a byte.

    Some file systems take no name that is cut in a character (ZFS with utf8only, ext4 with casefold and strict).
    """
    if len(name) <= length:
        return name
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return name[:length]
    return name[:length].decode("utf-8", "ignore").encode("utf-8")
