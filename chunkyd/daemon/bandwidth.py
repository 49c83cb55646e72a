"""The bandwidth timetable, applied to the limiter that all connections share."""

from __future__ import annotations

from datetime import datetime

from chunkyd.clock import Clock
from chunkyd.settings import Pause, Timetable
from chunkyd.upload.limiter import Limiter


class Bandwidth:
    """Sets the rate that holds now; `paused` while the timetable says so."""

    def __init__(self, timetable: Timetable, limiter: Limiter, clock: Clock) -> None:
        self._timetable = timetable
        self._limiter = limiter
        self._clock = clock
        self.paused = False
        self.rate: int | None = None  # bytes per second; None is unlimited

    def replace(self, timetable: Timetable) -> None:
        """Take over a new configuration, at once."""
        self._timetable = timetable
        self.apply()

    def apply(self) -> None:
        """Look at the (local) time and set the rate; called every few seconds, since entries are minutes."""
        rate = self._timetable.at(datetime.fromtimestamp(self._clock.wall()).astimezone())
        self.paused = isinstance(rate, Pause)
        if not isinstance(rate, Pause):
            self.rate = rate
            self._limiter.set_rate(rate)
