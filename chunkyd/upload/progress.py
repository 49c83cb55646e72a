"""How far an upload is: a frozen picture for callbacks, and the meter that knows the rate of the last seconds."""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

Phase = Literal["hashing", "sending", "waiting", "paused", "verifying", "done"]
_WINDOW = 10.0  # seconds; the rate is the mean over these, so that it neither jumps nor lags


class Progress(msgspec.Struct, frozen=True):
    """One moment of an upload. `rate` in bytes/s; `seconds_left` is None where it cannot be told.

    `bytes_done`: hashed while hashing, else stored at the server plus those under way. `bytes_sent`: over the wire.
    """

    phase: Phase
    bytes_done: int
    bytes_total: int
    bytes_sent: int
    rate: float
    seconds_left: float | None
    detail: str = ""


class Meter:
    """The rate of a growing count over the last seconds; pure, takes `now`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, count: int, now: float) -> float:
        """Note the count and say how fast it grows, per second."""
        samples = self._samples
        if samples and count < samples[-1][1]:
            samples.clear()  # a new pass began
        samples.append((now, count))
        while len(samples) > 2 and now - samples[1][0] >= _WINDOW:
            samples.popleft()
        first_time, first_count = samples[0]
        return (count - first_count) / (now - first_time) if now > first_time else 0.0


def seconds_left(remaining: int, rate: float) -> float | None:
    """The time the rest takes at this rate; None where nothing moves."""
    return remaining / rate if rate > 0 else None
