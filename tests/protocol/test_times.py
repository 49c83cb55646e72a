"""RFC 3339 times: to the nanosecond, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.times import format_time, parse_time
from tests.protocol.shared import label, vectors

VECTORS = vectors("times.json")
SAYABLE = st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1)


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_a_time_is_read_and_written_as_the_vectors_say(case: dict[str, Any]) -> None:
    """Each text stands for exactly its nanoseconds, and the canonical ones are what is written."""
    assert parse_time(case["text"]) == int(case["nanoseconds"])
    if case["canonical"]:
        assert format_time(int(case["nanoseconds"])) == case["text"]


@pytest.mark.parametrize("text", VECTORS["bad"], ids=label)
def test_a_bad_time_is_a_value_error(text: str) -> None:
    """Other forms and days that never were are refused."""
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize("nanoseconds", VECTORS["unsayable"], ids=label)
def test_a_time_outside_the_years_1_to_9999_has_no_text(nanoseconds: str) -> None:
    """What RFC 3339 cannot say is said as None, not as an exception."""
    assert format_time(int(nanoseconds)) is None


@given(SAYABLE)
def test_every_nanosecond_comes_back(nanoseconds: int) -> None:
    """A modification time survives the way to the text and back to the nanosecond."""
    text = format_time(nanoseconds)
    assert text is not None
    assert parse_time(text) == nanoseconds


@given(SAYABLE, st.integers(0, 23), st.integers(0, 59), st.sampled_from("+-"))
def test_an_offset_moves_the_time(nanoseconds: int, hours: int, minutes: int, sign: str) -> None:
    """An offset from UTC is taken off, to the minute."""
    text = (format_time(nanoseconds) or "").removesuffix("Z")
    seconds = (hours * 60 + minutes) * 60 * (1 if sign == "+" else -1)
    assert parse_time(f"{text}{sign}{hours:02}:{minutes:02}") == nanoseconds - seconds * 10**9


@given(st.text(max_size=40) | st.text("0123456789-:.TZtz +", max_size=40))
def test_any_time_is_read_or_a_value_error(text: str) -> None:
    """Nothing but a ValueError or an integer."""
    try:
        assert type(parse_time(text)) is int
    except ValueError as error:
        assert str(error).isascii() or str(error).encode("utf-8")
