"""When a folder's scans are due, and who waits for them. Pure: time comes as an argument, by the monotonic clock."""

from __future__ import annotations

import threading

_NEVER = float("inf")
_SHORTEST_POLL = 5.0
_POLL_SHARE = 10  # a poll may take a tenth of the time
_FIRST_OVERFLOW_PAUSE = 1.0
_LONGEST_OVERFLOW_PAUSE = 60.0


class Ticket:
    """A scan that was asked for."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._scanned = False

    def finish(self, *, scanned: bool) -> None:
        """The scan has ended and was told, or cannot be made; what is said first counts."""
        if not self._ended.is_set():
            self._scanned = scanned
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether nobody needs to wait any more."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the scan has ended; False after `timeout` seconds, or where it could not be made."""
        return self._ended.wait(timeout) and self._scanned


class Schedule:
    """The next full scan, and the next look at directories that cannot be watched."""

    def __init__(self) -> None:
        self.next_full = 0.0
        self.next_poll = _NEVER
        self.last_wall: float | None = None
        self._began = 0.0
        self._lasted = 0.0
        self._overflowed = False
        self._overflow_pause = 0.0
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []

    def begin(self, now: float) -> None:
        """A root was taken up: scan it, there was none before."""
        self.next_full = now
        self.next_poll = _NEVER
        self.last_wall = None
        self._overflowed, self._overflow_pause = False, 0.0

    def full_at(self, when: float) -> None:
        """A full scan is needed at this time, or earlier."""
        self.next_full = min(self.next_full, when)

    def wanted(self, ticket: Ticket, now: float) -> None:
        """Somebody waits for a full scan that begins from now on."""
        self._waiting.append(ticket)
        self.full_at(now)

    def overflowed(self, now: float) -> None:
        """Events were lost: scan soon, but let the flood pass, the longer the more often it comes."""
        self._overflowed = True
        self._overflow_pause = self._overflow_pause or _FIRST_OVERFLOW_PAUSE
        self.full_at(now + self._overflow_pause)

    def started(self, now: float) -> None:
        """The full scan begins."""
        self._running, self._waiting = self._running + self._waiting, []
        self._began, self.next_full, self._overflowed = now, _NEVER, False

    def ended(self, now: float, rescan: float, *, polled: bool) -> list[Ticket]:
        """The full scan has ended; who waited for it. `rescan` is the folder's own interval, 0 for never."""
        self._lasted = now - self._began
        interval = rescan or _NEVER
        if polled:
            interval = min(interval, self._poll_interval())
        if self._overflowed:
            self._overflow_pause = min(_LONGEST_OVERFLOW_PAUSE, 2 * self._overflow_pause)
            interval = min(interval, self._overflow_pause)
        else:
            self._overflow_pause = 0.0
        self.next_full = now if self._waiting else now + interval
        done, self._running = self._running, []
        return done

    def poll(self, now: float, *, wanted: bool) -> None:
        """Directories that cannot be watched were just looked at, where that was due; whether there are any."""
        if not wanted:
            self.next_poll = _NEVER
        elif self.next_poll == _NEVER or now >= self.next_poll:
            self.next_poll = now + self._poll_interval()

    def _poll_interval(self) -> float:
        return max(_SHORTEST_POLL, _POLL_SHARE * self._lasted)

    def interrupted(self) -> None:
        """The scan under way was given up; who waited for it waits for the next."""
        self._running, self._waiting = [], self._running + self._waiting

    def give_up(self) -> None:
        """No scan can be made now."""
        self.interrupted()
        for ticket in self._waiting:
            ticket.finish(scanned=False)
        self._waiting = []
