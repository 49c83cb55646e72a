"""Digests: the SHA-256 that names a file version, and the `Content-Digest` (RFC 9530) of a chunk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Protocol

import crc32c

CRC32C = "crc32c"
SHA256 = "sha-256"
DIGESTS: Mapping[str, int] = {CRC32C: 4, SHA256: 32}  # algorithm → bytes of its digest

_FILE_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
# The dictionary of RFC 8941 (with the dates and display strings of RFC 9651), one regular expression for a member.
# Every repetition is possessive: no header makes the match go back, so reading is linear.
_KEY = r"[a-z*][a-z0-9_\-.*]*+"
_BARE_ITEM = (
    r"(?::[A-Za-z0-9+/=]*+:"  # byte sequence
    r"|\?[01]"  # boolean
    r"|@?-?[0-9]{1,15}+(?:\.[0-9]{1,3}+)?"  # number, date
    r'|"(?:[ !#-\[\]-~]|\\["\\])*+"'  # string
    r'|%"(?:[ !#$&-~]|%[0-9a-f]{2})*+"'  # display string
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+\-.^_`|~:/]*+)"  # token
)
_PARAMETERS = rf"(?:; *+{_KEY}(?:={_BARE_ITEM})?)*+"
_INNER_LIST = rf"\( *+(?:{_BARE_ITEM}{_PARAMETERS}(?: ++|(?=\))))*+\)"
_MEMBER = re.compile(rf"({_KEY})(?:=(?:({_BARE_ITEM})|{_INNER_LIST}))?{_PARAMETERS}[ \t]*+(,[ \t]*+|\Z)", re.ASCII)


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32c:
    """CRC-32C with hashlib's methods; its digest is four bytes, big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = crc32c.crc32c(data, self._value)

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

    def update(self, data: bytes | memoryview) -> None:
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
    As RFC 8941 says, the last of two equal keys counts, and missing padding is put in.
    """
    items: dict[str, str] = {}
    header = header.strip(" ")
    position, separator = 0, ""
    while position < len(header) or separator:
        member = _MEMBER.match(header, position)
        if member is None:
            raise ValueError("Content-Digest is not a dictionary of digests")
        key, item, separator = member.groups()
        items[key] = item or ""
        position = member.end()
    return {key: _decode(key, item) for key, item in items.items() if key in DIGESTS}


def _decode(algorithm: str, item: str) -> bytes:
    if not item.startswith(":"):
        raise ValueError(f"the {algorithm} digest is not a byte sequence (:base64:)")
    encoded = item[1:-1]
    try:
        digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the {algorithm} digest is not base64") from error
    if len(digest) != DIGESTS[algorithm]:
        raise ValueError(f"the {algorithm} digest has {len(digest)} bytes, not {DIGESTS[algorithm]}")
    return digest
