"""Records as the catalog tests need them."""

from __future__ import annotations

from msgspec.structs import replace

from chunkyd.catalog.base import FileRecord, SessionRecord, SessionState
from chunkyd.files import Fingerprint

HASH = "ab" * 32


def session(session_id: str = "one", **changes: object) -> SessionRecord:
    """A session that is receiving; `changes` are its other fields."""
    record = SessionRecord(
        session_id=session_id,
        sequence=0,
        user="ann",
        file_hash=HASH,
        total_bytes=1000,
        target=b"a/x",
        state=SessionState.RECEIVING,
        created=100.0,
        expires_at=500.0,
    )
    return replace(record, **changes)


def file(path: bytes = b"a/x", **changes: object) -> FileRecord:
    """A published file; `changes` are its other fields."""
    record = FileRecord(
        user="ann",
        path=path,
        file_hash=HASH,
        size=1000,
        fingerprint=Fingerprint(1, 2, 1000, 3, 4),
        sequence=1,
        published_at=200.0,
    )
    return replace(record, **changes)
