"""Which files to send, and under which names: files by their base name, a folder by its last part.

Paths are bytes. Symbolic links inside a folder are skipped and said, as is all that is not a regular file; a folder
that cannot be read is a failure of its own and the rest goes on. A link named by the user is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from chunkyd.errors import UsageError
from chunkyd.files import absolute
from chunkyd.protocol.paths import check_path, readable


class Found(msgspec.Struct, frozen=True):
    """A file to send: where it is, and the path it is published under."""

    source: bytes
    path: bytes
    size: int


class Skipped(msgspec.Struct, frozen=True):
    """What is not sent, and why; `failed` where it should have been."""

    source: bytes
    reason: str
    failed: bool


def gather(
    paths: Sequence[bytes], *, recursive: bool, name: bytes | None = None, prefix: bytes = b""
) -> list[Found | Skipped]:
    """Everything below these paths, in order. Raises UsageError where the request makes no sense."""
    if name is not None and len(paths) != 1:
        raise UsageError("a name can be given to one file or one folder only")
    gathered: list[Found | Skipped] = []
    published: dict[bytes, bytes] = {}
    for each in _all(paths, recursive, name, prefix):
        if isinstance(each, Found):
            other = published.get(each.path)
            if other == each.source:
                continue
            published[each.path] = each.source
            if other is not None:
                raise UsageError(
                    f"{readable(other)} and {readable(each.source)} would both be published as {readable(each.path)}",
                    mend="Send them one by one, with --name.",
                )
        gathered.append(each)
    return gathered


def _all(paths: Sequence[bytes], recursive: bool, name: bytes | None, prefix: bytes) -> Iterator[Found | Skipped]:
    for path in paths:
        source = absolute(path)
        last = os.path.basename(source) if name is None else name
        try:
            status = os.stat(source)
        except OSError as error:
            yield _unreadable(source, error)
            continue
        if stat.S_ISDIR(status.st_mode):
            if not recursive:
                raise UsageError(f"{readable(source)} is a folder", mend="Send folders with --recursive.")
            yield from _folder(source, _joined(prefix, last))
        elif stat.S_ISREG(status.st_mode):
            yield _file(os.path.realpath(source), _joined(prefix, last), status.st_size)
        else:
            yield Skipped(source, "is not a regular file", failed=True)


def _joined(*parts: bytes) -> bytes:
    return b"/".join(part.strip(b"/") for part in parts if part.strip(b"/"))


def _folder(folder: bytes, published: bytes) -> Iterator[Found | Skipped]:
    """A folder's files, then those of its subfolders; a stack, because trees may be deeper than Python's."""
    rest = [(folder, published)]
    while rest:
        here, name = rest.pop()
        try:
            with os.scandir(here) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield _unreadable(here, error)
            continue
        folders = []
        for entry in listing:
            kind = _kind(entry)
            if kind == "folder":
                folders.append((entry.path, _joined(name, entry.name)))
            elif isinstance(kind, int):
                yield _file(entry.path, _joined(name, entry.name), kind)
            elif isinstance(kind, OSError):
                yield _unreadable(entry.path, kind)
            else:
                yield Skipped(entry.path, "is not a regular file", failed=False)
        rest.extend(reversed(folders))


def _kind(entry: os.DirEntry[bytes]) -> int | OSError | Literal["folder", "other"]:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return error
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return status.st_size if stat.S_ISREG(status.st_mode) else "other"


def _file(source: bytes, path: bytes, size: int) -> Found | Skipped:
    try:
        return Found(source, check_path(path), size)
    except ValueError as error:
        return Skipped(source, f"cannot be published under its name: {error}", failed=True)


def _unreadable(source: bytes, error: OSError) -> Skipped:
    return Skipped(source, f"cannot be read: {os.strerror(error.errno or 0)}", failed=True)
