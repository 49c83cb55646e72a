"""SHA-256 that can be put down and taken up again, by another process: what hashlib keeps to itself.

Between two blocks of 64 bytes all that SHA-256 knows are eight words and how far it is (FIPS 180-4, 6.2). libcrypto,
which Python's own hashes come from, keeps them where they can be read; it is called through ctypes, which lets other
threads run meanwhile. Where it does not do what it should (another libcrypto, or none) nothing can be taken up, and a
file is hashed from its first byte on: `begin` then gives hashlib's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
from typing import Protocol

BLOCK_BYTES = 64
_WORDS = 8
_PART = re.compile(r"([0-9]{1,18}):([0-9a-f]{64}):([0-9a-f]{16})", re.ASCII)


class Running(Protocol):
    """A SHA-256 under way. `position`: how many bytes it has taken."""

    position: int

    def update(self, data: memoryview) -> None:
        """Take more bytes, of writable memory."""
        ...

    def hexdigest(self) -> str:
        """The hash of all bytes; the end of it."""
        ...

    def part(self) -> str | None:
        """What `begin` can go on from; None where it cannot be had here."""
        ...


class _Context(ctypes.Structure):
    """SHA256_CTX of OpenSSL, the same since 0.9.8; with room after it."""

    _fields_ = (
        ("words", ctypes.c_uint32 * _WORDS),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 16),
        ("in_block", ctypes.c_uint),
        ("length", ctypes.c_uint),
        ("room", ctypes.c_ubyte * 144),
    )


class _Kept:
    """By libcrypto."""

    def __init__(self, library: ctypes.CDLL, position: int = 0, words: bytes | None = None) -> None:
        self.position = position
        self._library = library
        self._context = _Context()
        library.SHA256_Init(ctypes.byref(self._context))
        if words is not None:
            for number in range(_WORDS):
                self._context.words[number] = int.from_bytes(words[4 * number : 4 * number + 4], "big")
            self._context.bits_low = position * 8 & 0xFFFFFFFF
            self._context.bits_high = position * 8 >> 32

    def update(self, data: memoryview) -> None:
        self._library.SHA256_Update(
            ctypes.byref(self._context), (ctypes.c_char * len(data)).from_buffer(data), ctypes.c_size_t(len(data))
        )
        self.position += len(data)

    def hexdigest(self) -> str:
        digest = (ctypes.c_ubyte * 32)()
        self._library.SHA256_Final(digest, ctypes.byref(self._context))
        return bytes(digest).hex()

    def part(self) -> str | None:
        if self.position % BLOCK_BYTES:
            return None
        words = b"".join(word.to_bytes(4, "big") for word in self._context.words)
        return f"{self.position}:{words.hex()}:{_check(self.position, words)}"


class _Plain:
    """By hashlib."""

    def __init__(self) -> None:
        self.position = 0
        self._hash = hashlib.sha256()

    def update(self, data: memoryview) -> None:
        self._hash.update(data)
        self.position += len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def part(self) -> str | None:
        return None


def begin(size: int, part: str | None = None) -> Running:
    """The hash of a file of `size` bytes, from where an earlier one was put down; from its first byte where that says
    nothing, or cannot be of such a file.
    """
    library = _libcrypto()
    if library is None:
        return _Plain()
    found = _PART.fullmatch(part or "")
    if found is None:
        return _Kept(library)
    position, words = int(found[1]), bytes.fromhex(found[2])
    if position > size or position % BLOCK_BYTES or found[3] != _check(position, words):
        return _Kept(library)
    return _Kept(library, position, words)


def _check(position: int, words: bytes) -> str:
    """Tells a part that was damaged where it was kept; a wrong hash would cost the sending of the whole."""
    return hashlib.sha256(b"%d:" % position + words).hexdigest()[:16]


@functools.cache
def _libcrypto() -> ctypes.CDLL | None:
    """The one that hashlib uses, where it keeps its words as is expected here: put down, taken up, and compared."""
    try:
        import _hashlib  # not there where Python was built without OpenSSL

        library = ctypes.CDLL(_hashlib.__file__)
        for name in ("SHA256_Init", "SHA256_Update", "SHA256_Final"):
            getattr(library, name)
    except (ImportError, OSError, AttributeError):
        return None
    sample = bytearray(range(256)) * 5
    first = _Kept(library)
    first.update(memoryview(sample)[: 3 * BLOCK_BYTES])
    words = (first.part() or "").split(":")[1]
    second = _Kept(library, first.position, bytes.fromhex(words))
    second.update(memoryview(sample)[3 * BLOCK_BYTES :])
    return library if second.hexdigest() == hashlib.sha256(sample).hexdigest() else None
