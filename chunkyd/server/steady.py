"""The server's own time: wall-clock seconds that do not jump when the wall clock does (rule 7).

Deadlines are kept in this time. A step of the wall clock against the monotonic one is seen by `step`; whoever sees
it moves every deadline by as much and then calls `shift`, so that no session ever lives shorter or longer for it.
"""

from __future__ import annotations

from chunkyd.clock import Clock

TOLERANCE_SECONDS = 1.0  # slewing moves the wall clock by less than this between two looks


class SteadyTime:
    """Wall time as it was at the beginning, carried on by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Seconds since 1970, without the steps not yet shifted."""
        return self._clock.monotonic() + self._offset

    def step(self) -> float:
        """By how much the wall clock was stepped since the last `shift`; 0.0 within the tolerance."""
        difference = self._clock.wall() - self.now()
        return difference if abs(difference) > TOLERANCE_SECONDS else 0.0

    def shift(self, seconds: float) -> None:
        """Follow the wall clock."""
        self._offset += seconds
