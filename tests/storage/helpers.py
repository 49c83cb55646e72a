"""What the storage tests share."""

from __future__ import annotations

import contextlib
import itertools

from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, Storage

_numbers = itertools.count()


def upload(storage: Storage, content: bytes, attributes: Attributes | None = None) -> str:
    """A prepared partial with this content; its session ID."""
    session_id = f"session-{next(_numbers)}"
    storage.create(session_id, len(content))
    with contextlib.closing(storage.open(session_id)) as partial:
        partial.write(0, content)
        partial.sync()
    storage.prepare(session_id, attributes or Attributes())
    return session_id


def publish(storage: Storage, path: bytes, content: bytes, *, keep_old: bool = False, user: str = "ann") -> Fingerprint:
    """Content published at a path."""
    return storage.publish(upload(storage, content), Target(user, path), keep_old=keep_old)


def content_of(storage: Storage, path: bytes, user: str = "ann") -> bytes | None:
    """What is published at a path, whole."""
    reader = storage.open_published(Target(user, path))
    if reader is None:
        return None
    with contextlib.closing(reader):
        parts = []
        while part := reader.read(sum(map(len, parts)), 1 << 16):
            parts.append(part)
    return b"".join(parts)


def everything(storage: Storage, user: str = "ann") -> dict[bytes, bytes | None]:
    """All published files of a user and their content."""
    return {target.path: content_of(storage, target.path, user) for target, _ in storage.walk(user)}
