"""A SHA-256 that is put down and taken up again is the same hash."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from chunkyd.upload.midstate import BLOCK_BYTES, begin


def of(content: bytes, part: str | None = None) -> str:
    """The hash of the content, taken from where `part` says it was put down."""
    running = begin(len(content), part)
    running.update(memoryview(bytearray(content))[running.position :])
    return running.hexdigest()


@given(st.binary(max_size=1000), st.integers(0, 16))
def test_put_down_and_taken_up(content: bytes, blocks: int) -> None:
    """At any block of any content; what is put down goes through another object."""
    at = min(blocks * BLOCK_BYTES, len(content))
    first = begin(len(content))
    first.update(memoryview(bytearray(content))[:at])
    part = first.part()
    assert (part is None) == (at % BLOCK_BYTES != 0), "this Python's libcrypto is expected to do it"
    assert of(content, part) == hashlib.sha256(content).hexdigest()


def test_more_bits_than_a_word_holds() -> None:
    """Beyond 512 MiB the count of bits needs its second word."""
    zeros = bytearray(1 << 20)
    first, whole = begin(1 << 30), hashlib.sha256()
    for _ in range(600):
        first.update(memoryview(zeros))
        whole.update(zeros)
    second = begin(1 << 30, first.part())
    assert second.position == 600 << 20
    second.update(memoryview(zeros))
    whole.update(zeros)
    assert second.hexdigest() == whole.hexdigest()


def test_what_is_no_part_of_this_file_is_begun_anew() -> None:
    """A part that is none, was damaged in any character, or lies beyond the file's end."""
    content = bytes(range(256))
    first = begin(len(content))
    first.update(memoryview(bytearray(content))[: 2 * BLOCK_BYTES])
    part = first.part()
    assert part is not None and begin(len(content), part).position == 2 * BLOCK_BYTES
    damaged = [part[:at] + ("1" if part[at] != "1" else "2") + part[at + 1 :] for at in range(len(part))]
    for wrong in ("", "64:", "٦٤" + part[3:], part + "0", *damaged):
        assert begin(len(content), wrong).position == 0, wrong
        assert of(content, wrong) == hashlib.sha256(content).hexdigest()
    assert begin(100, part).position == 0
