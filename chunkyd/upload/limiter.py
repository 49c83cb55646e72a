"""One rate for all connections of a process, changeable at any moment; unlimited costs nothing.

Rules: bytes are granted in small slices, each paid for by moving the moment of the next one, so the rate is smooth
and holds over any few seconds. At most `_BURST` seconds of unused time are made up for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from chunkyd.clock import Clock, SystemClock

_BURST = 0.05
_SLICES_PER_SECOND = 20
_LEAST_SLICE = 512
_LOOK_UP = 0.2  # seconds; how long a waiting sender takes at most to notice that it is to stop


class Limiter:
    """A token bucket for bytes. `rate` in bytes/s; None is unlimited, 0 holds everything until it is changed."""

    def __init__(self, rate: int | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._rate = rate
        self._next = 0.0

    @property
    def rate(self) -> int | None:
        """Bytes per second; None is unlimited."""
        return self._rate

    def set_rate(self, rate: int | None) -> None:
        """Change the rate for all, those waiting included."""
        with self._changed:
            if rate == self._rate:
                return
            self._rate = rate
            self._next = self._clock.monotonic()
            self._changed.notify_all()

    def _unlimited(self) -> bool:
        return self._rate is None

    def take(self, wanted: int, proceed: Callable[[], None]) -> int:
        """Wait for the turn of 1 to `wanted` bytes and say how many were granted; `proceed` may raise to end it."""
        if self._unlimited():  # without the lock: unlimited costs nothing
            return wanted
        with self._changed:
            while True:
                proceed()
                rate = self.rate
                if rate is None:
                    return wanted
                wait = self._next - self._clock.monotonic() if rate else _LOOK_UP
                if wait <= 0:
                    return self._grant(wanted, rate)
                self._changed.wait(min(wait, _LOOK_UP))

    def _grant(self, wanted: int, rate: int) -> int:
        granted = min(wanted, max(_LEAST_SLICE, rate // _SLICES_PER_SECOND))
        self._next = max(self._next, self._clock.monotonic() - _BURST) + granted / rate
        return granted
