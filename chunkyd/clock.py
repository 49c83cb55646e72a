"""Wall and monotonic time, handed in where a program starts; pure code takes `now`, and nobody patches time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Seconds, as floats."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        """`time.time()`."""
        return time.time()

    def monotonic(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()


_TOLERANCE_SECONDS = 1.0  # slewing moves the wall clock by less than this between two questions


class SinceSet:
    """How long the wall clock has told what passed, so far as this process could see: times before may mean nothing.

    It is set by somebody, or the machine was suspended; either is seen as a jump against the monotonic clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.wall() - clock.monotonic()
        self._since = float("-inf")

    def seconds(self) -> float:
        """Infinite where no jump was seen; 0.0 by the question that sees it, since nobody knows when it happened."""
        now = self._clock.monotonic()
        offset = self._clock.wall() - now
        if abs(offset - self._offset) > _TOLERANCE_SECONDS:
            self._since = now
        self._offset = offset
        return now - self._since


class ManualClock:
    """A clock that stands until it is moved: for tests, and for replaying a schedule."""

    def __init__(self, wall: float = 1_800_000_000.0, monotonic: float = 1_000.0) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def wall(self) -> float:
        """The wall time it was set to."""
        return self._wall

    def monotonic(self) -> float:
        """The monotonic time it was moved to."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self._wall += seconds
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self._wall += seconds
