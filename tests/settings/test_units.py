"""Sizes, durations and rates as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.settings import (
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("512B", 512), ("512KiB", 524288), ("8MiB", 8 << 20), ("10GB", 10**10),
        ("1.5TiB", 3 << 39), ("5TiB", 5 << 40), ("8 MiB", 8 << 20), ("8mib", 8 << 20), ("8MB", 8 * 10**6),
        ("8kB", 8000), ("8KB", 8000), ("8kb", 8000), (str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_size_is_read(text: str, size: int) -> None:
    """Binary and decimal units, decimals that come out whole, and bare bytes are sizes."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a size"), ("-1", "not a size"), ("1,5GiB", "not a size"), ("0.3B", "whole number of bytes"),
        ("8M", "8MiB (powers of 1024) or 8MB (of 1000)"), ("8k", "8KiB (powers of 1024) or 8kB"),
        ("8Mb", "bytes, not bits"), ("8Mbit", "bytes, not bits"), ("8mbps", "bytes, not bits"),
        ("8 bananas", "no unit 'bananas'"), ("8EiB", "no unit"), ("1e9", "not a size"), ("9000000TiB", "more than"),
        ("٣MiB", "not a size"), ("8MiB\n8", "not a size"), ("9" * 10_000, "…'"),
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str, said: str) -> None:
    """A size that could be meant two ways, or no way, is refused with the right way to write it."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("300ms", 0.3), ("5s", 5.0), ("2m", 120.0), ("1h", 3600.0), ("5d", 432000.0), ("1.5s", 1.5),
        ("1h30m", 5400.0), (" 5s ", 5.0), ("0s", 0.0),
    ],
)  # fmt: skip
def test_duration_is_read(text: str, seconds: float) -> None:
    """Every unit, decimals and sums are durations; 0 needs no unit."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "which unit? Write 5s, 5m or 5h"), ("1.5", "which unit?"), ("1:30", "1h30m"), ("", "not a duration"),
        ("-5s", "not a duration"), ("5 minutes", "not a duration"), ("5min", "not a duration"),
        ("5S", "not a duration"),
        ("0.5ms", "finer than a millisecond"), ("99999d", "hundred years"), ("inf", "not a duration"),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str, said: str) -> None:
    """A number without a unit, and what only looks like a time, are refused with a suggestion."""
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10MiB", "per second"), ("10MiB/m", "per second"), ("0/s", "never ends"), ("10Mbit/s", "bits"),
        ("10Mb/s", "bits"), ("", "per second"), ("none", "per second"), ("fast/s", "not a size"),
    ],
)  # fmt: skip
def test_what_is_no_rate_is_refused(text: str, said: str) -> None:
    """A rate needs bytes and /s, and is never 0."""
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_rate(text)


@given(st.integers(0, 2**63 - 1) | st.sampled_from([1 << 30, 5 << 40, 10**12, 1536, 3000]))
def test_size_survives_writing(size: int) -> None:
    """Every size written is read back the same."""
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**12))
def test_duration_survives_writing(milliseconds: int) -> None:
    """Every duration of whole milliseconds written is read back the same."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.none() | st.integers(1, 2**63 - 1))
def test_rate_survives_writing(rate: int | None) -> None:
    """Every rate written is read back the same."""
    assert parse_rate(format_rate(rate)) == rate


def test_writing_is_short() -> None:
    """What is written is the form a person would choose."""
    assert [format_size(size) for size in (0, 512 << 10, 10**10, 5 << 40, 1001)] == [
        "0B", "512KiB", "10GB", "5TiB", "1001B",
    ]  # fmt: skip
    assert [format_duration(seconds) for seconds in (0, 0.3, 90, 3600, 432000)] == ["0", "300ms", "90s", "1h", "5d"]
    assert [format_rate(rate) for rate in (None, 10 << 20)] == ["unlimited", "10MiB/s"]
