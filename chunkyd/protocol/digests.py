"""Digests: the SHA-256 that names a file version, and the `Content-Digest` (RFC 9530) of a chunk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Protocol

import google_crc32c

CRC32C = "crc32c"
SHA256 = "sha-256"
DIGESTS: Mapping[str, int] = {CRC32C: 4, SHA256: 32}  # algorithm → bytes of its digest

_FILE_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*", re.ASCII)
_PARAMETERS = re.compile(r"(?:[ ]*;[ ]*[a-z*][a-z0-9_\-.*]*(?:=[^;,\"]*|=\"(?:[^\"\\]|\\.)*\")?)*", re.ASCII)
_ITEM = re.compile(r":[A-Za-z0-9+/=]*:|\?[01]|\"(?:[^\"\\]|\\.)*\"|\([^()]*\)|[^,;\s\"()]+", re.ASCII)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32c:
    """CRC-32C with hashlib's methods; its digest is four bytes, big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = google_crc32c.extend(self._value, data)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _new(algorithm: str) -> _Hash:
    return _Crc32c() if algorithm == CRC32C else hashlib.sha256()


def is_file_hash(text: str) -> bool:
    """Whether this is a file hash: 64 lower-case hexadecimal digits."""
    return _FILE_HASH.fullmatch(text) is not None


class Checker:
    """Follows the bytes of one body and tells whether every digest announced for it matches."""

    def __init__(self, expected: Mapping[str, bytes]) -> None:
        self._expected = dict(expected)
        self._hashes = {algorithm: _new(algorithm) for algorithm in expected}

    def update(self, data: bytes) -> None:
        """The next bytes of the body, in order."""
        for running in self._hashes.values():
            running.update(data)

    def mismatches(self) -> list[str]:
        """The algorithms whose digest differs; empty where all match."""
        return [name for name, running in self._hashes.items() if running.digest() != self._expected[name]]


def content_digest(data: bytes, algorithm: str = CRC32C) -> bytes:
    """The digest of a whole body."""
    running = _new(algorithm)
    running.update(data)
    return running.digest()


def format_content_digest(digests: Mapping[str, bytes]) -> str:
    """The header's value, as an RFC 8941 dictionary of byte sequences."""
    return ", ".join(f"{name}=:{base64.b64encode(value).decode('ascii')}:" for name, value in digests.items())


def parse_content_digest(header: str) -> dict[str, bytes]:
    """The known algorithms of a `Content-Digest` and their digests; unknown ones are ignored.

    Raises ValueError on what is not an RFC 8941 dictionary, on a known digest of the wrong kind or length.
    As RFC 8941 says, the last of two equal keys counts.
    """
    digests: dict[str, bytes] = {}
    rest = header.strip(" ")
    while rest:
        key = _KEY.match(rest)
        if key is None:
            raise ValueError("Content-Digest is not a dictionary of digests")
        rest = rest[key.end() :]
        value = None
        if rest.startswith("="):
            value = _ITEM.match(rest, 1)
            if value is None:
                raise ValueError("Content-Digest has a key without a value")
            rest = rest[value.end() :]
        parameters = _PARAMETERS.match(rest)
        rest = rest[parameters.end() if parameters else 0 :].lstrip(" \t")
        if key.group() in DIGESTS:
            digests[key.group()] = _decode(key.group(), value.group() if value else "")
        if rest:
            if not rest.startswith(",") or not rest[1:].strip(" \t"):
                raise ValueError("Content-Digest is not a dictionary of digests")
            rest = rest[1:].lstrip(" \t")
    return digests


def _decode(algorithm: str, item: str) -> bytes:
    if len(item) < 2 or item[0] != ":" or item[-1] != ":":
        raise ValueError(f"the {algorithm} digest is not a byte sequence (:base64:)")
    try:
        digest = base64.b64decode(item[1:-1], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the {algorithm} digest is not base64") from error
    if len(digest) != DIGESTS[algorithm]:
        raise ValueError(f"the {algorithm} digest has {len(digest)} bytes, not {DIGESTS[algorithm]}")
    return digest
