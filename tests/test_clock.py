"""Clocks that are set."""

from __future__ import annotations

import pytest

from chunkyd.clock import ManualClock, SinceSet


@pytest.mark.parametrize("step", [-86400.0, -2.0, 2.0, 86400.0])
def test_a_jump_is_seen_by_the_next_question(step: float) -> None:
    """Nobody knows when it happened, so nothing before the question counts; from then on time counts again."""
    clock = ManualClock()
    since = SinceSet(clock)
    clock.advance(1000)
    assert since.seconds() == float("inf")
    clock.step_wall(step)
    clock.advance(10)
    assert since.seconds() == 0
    clock.advance(10)
    assert since.seconds() == 10


def test_slewing_is_no_jump() -> None:
    """A clock that is made to run a little faster or slower is right all the while."""
    clock = ManualClock()
    since = SinceSet(clock)
    for _ in range(100):
        clock.advance(100)
        clock.step_wall(0.05)
        assert since.seconds() == float("inf")
