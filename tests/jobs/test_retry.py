"""Backoff and probe intervals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chunkyd.jobs.retry import delay, probe_delay

ATTEMPTS = st.integers(0, 10_000)
FRACTIONS = st.floats(0, 1, exclude_max=True)
SECONDS = st.floats(0.001, 10_000)


@given(ATTEMPTS, SECONDS, SECONDS, FRACTIONS)
def test_backoff_stays_below_its_ceiling(attempt: int, base: float, maximum: float, fraction: float) -> None:
    """Whatever the attempt's number, the wait is never negative and never above the maximum."""
    assert 0 <= delay(attempt, base, maximum, fraction) <= maximum


@given(ATTEMPTS, SECONDS, FRACTIONS, SECONDS)
def test_retry_after_is_honoured(attempt: int, maximum: float, fraction: float, retry_after: float) -> None:
    """The server's Retry-After is a floor, even above the maximum."""
    assert delay(attempt, 1.0, maximum, fraction, retry_after) >= retry_after
    assert probe_delay(attempt, 1.0, maximum, fraction, retry_after) >= retry_after


def test_the_ceiling_doubles() -> None:
    """Base, twice the base, four times the base, and so on to the maximum."""
    assert [delay(attempt, 1.0, 10.0, 1.0) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 100), SECONDS, SECONDS, FRACTIONS)
def test_probes_grow_to_the_maximum(probe: int, base: float, maximum: float, fraction: float) -> None:
    """A probe's interval is within a quarter of its ceiling, which never shrinks nor passes the maximum."""
    ceiling, later = (probe_delay(number, base, maximum, 0.0) for number in (probe, probe + 1))
    assert ceiling <= later <= maximum
    assert ceiling * 0.75 <= probe_delay(probe, base, maximum, fraction) <= ceiling
