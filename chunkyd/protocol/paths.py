"""The path a file is published under (rule 10): which are allowed, and how one that is not UTF-8 travels."""

from __future__ import annotations

import msgspec

MAX_PATH_BYTES = 4096
MAX_PART_BYTES = 255


class Target(msgspec.Struct, frozen=True):
    """Where a file is published: `path` is raw bytes, relative to the user's folder."""

    user: str
    path: bytes


def check_path(path: bytes) -> bytes:
    """The path itself, where the protocol allows it; ValueError with the reason, else."""
    if len(path) > MAX_PATH_BYTES:
        raise ValueError(f"the path has {len(path)} bytes; {MAX_PATH_BYTES} are allowed")
    if b"\0" in path:
        raise ValueError("the path holds a NUL")
    for part in path.split(b"/"):
        if not part:
            raise ValueError("the path is empty, absolute, or has an empty part")
        if part in (b".", b".."):
            raise ValueError(f"the path has a part {part.decode()!r}")
        if len(part) > MAX_PART_BYTES:
            raise ValueError(f"a part of the path has {len(part)} bytes; {MAX_PART_BYTES} are allowed")
    return path


def encode_path(path: bytes) -> tuple[str | None, str | None]:
    """`path` and `pathBytes` as they travel: the first for UTF-8, the second (base64) for all else."""
    try:
        return path.decode("utf-8"), None
    except UnicodeDecodeError:
        import base64  # for rare names: a command of chunkyctl does without

        return None, base64.b64encode(path).decode("ascii")


def decode_path_bytes(text: str) -> bytes:
    """The bytes behind `pathBytes`; ValueError where it is not base64."""
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one; text that is not ASCII raises a plain one
        raise ValueError("pathBytes is not base64") from error


def readable(path: bytes) -> str:
    """For people: bytes that are not UTF-8 appear as \\xNN, so that no terminal and no JSON writer stumbles."""
    return path.decode("utf-8", "backslashreplace")
