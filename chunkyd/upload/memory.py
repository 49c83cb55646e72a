"""What a client remembers over crashes: which session belongs to which version of which file, and hashes taken.

Rules: a session is remembered durably before its first chunk, a completion durably before its session is ended. A
session that is given up is not forgotten but moved, in the same transaction, to the endings, and stays there until
the server says that it is gone. Two processes with one memory share sessions: who remembers second gets the first's.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from chunkyd.files import Fingerprint


class Origin(NamedTuple):
    """Who uploads, and which of its uploads this is: of two for one path that with the greater `order` is the newer."""

    client: str
    order: int


class UploadKey(msgspec.Struct, frozen=True):
    """Which upload: the server's URL, the source's absolute path and the path it is published under, both raw bytes."""

    url: str
    source: bytes
    path: bytes


class Remembered(msgspec.Struct, frozen=True):
    """A session and the file version it carries; `file_hash` is the hash, or what stands for it in this session.

    `hash_part`: how far the hash was while its bytes were sent (`midstate`).
    """

    session_id: str
    file_hash: str
    fingerprint: Fingerprint
    total_bytes: int
    hash_part: str | None = None


class Memory(Protocol):
    """What an upload needs remembered. Every method is safe from any thread and durable when it returns."""

    def origin(self, fingerprint: Fingerprint) -> Origin:
        """Whose upload this version's is, and which: greater for a later wish, never for an earlier one."""
        ...

    def known_hash(self, key: UploadKey, fingerprint: Fingerprint) -> str | None:
        """The hash taken of exactly this version, or None."""
        ...

    def remember_hash(self, key: UploadKey, fingerprint: Fingerprint, file_hash: str) -> None:
        """A hash was taken; need not be durable."""
        ...

    def hash_first(self, key: UploadKey, size: int) -> bool:
        """Whether this file is to be hashed before it is sent, though its hash is not known.

        So where it did not hold still while it was sent, or where one of this size was sent before: it may be that one.
        """
        ...

    def unsteady(self, key: UploadKey, fingerprint: Fingerprint, version: str) -> None:
        """It did not hold still while it was sent: the next time it is hashed first. `version` stood for its hash."""
        ...

    def recall(self, key: UploadKey) -> Remembered | None:
        """The session under way for this upload, of whatever version."""
        ...

    def remember(self, key: UploadKey, session: Remembered) -> Remembered:
        """Keep a new session, and return the one that counts.

        Where one of the same version is there already (another process was faster), that one counts, and the new
        one moves to the endings; one of another version moves to the endings and the new one counts.
        """
        ...

    def remember_part(self, key: UploadKey, session_id: str, part: str) -> None:
        """How far the hash of what this session carries is; need not be durable. Gone with the session."""
        ...

    def completed(self, key: UploadKey) -> None:
        """The server said complete: record it, and move the session to the endings."""
        ...

    def forget(self, key: UploadKey, session_id: str, *, rehash: bool = False) -> None:
        """This session is given up: move it to the endings if it still counts; `rehash` drops the hash taken too."""
        ...

    def endings(self, url: str) -> list[tuple[str, str]]:
        """Session ID and file hash of every session at this server that is still to be ended."""
        ...

    def ended(self, url: str, session_id: str) -> None:
        """The server says that this session is gone."""
        ...
