"""The daemon's recent events: a ring that forgets the oldest, so that no slow listener can hold anything up.

IDs grow by one and begin at the wall clock's milliseconds: after a restart they are greater than those before, and
a listener that comes back with an old ID is told of the gap. It is, too, where the clock was set back.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice

from chunkyd.clock import Clock
from chunkyd.control.base import Event, EventBatch, JobView
from chunkyd.protocol.times import format_time

KEPT = 2000
LARGEST_BATCH = 500


class EventLog:
    """Published from any thread, read from any thread."""

    def __init__(self, clock: Clock, kept: int = KEPT) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=kept)
        self._last = int(clock.wall() * 1000)
        self._changed = threading.Condition()
        self._closed = False

    def publish(self, kind: str, *, job: JobView | None = None, text: str | None = None) -> None:
        """Add an event; never waits for listeners."""
        with self._changed:
            self._last += 1
            time = format_time(int(self._clock.wall() * 1000) * 1_000_000)
            self._events.append(Event(id=self._last, time=time, kind=kind, job=job, text=text))
            self._changed.notify_all()

    def after(self, since: int | None, wait: float) -> EventBatch:
        """Events with greater IDs (None: from now on); where there are none, wait for one up to `wait` seconds."""
        with self._changed:
            if since is None:
                return EventBatch(events=(), gap=False, last=self._last)
            if since == self._last and not self._closed:
                self._changed.wait(wait)
            return self._batch(since)

    def _batch(self, since: int) -> EventBatch:
        oldest = self._last - len(self._events)  # IDs after this one are kept
        gap = not oldest <= since <= self._last
        skipped = 0 if gap else since - oldest
        events = tuple(islice(self._events, skipped, skipped + LARGEST_BATCH))
        return EventBatch(events=events, gap=gap, last=events[-1].id if events else self._last)

    def close(self) -> None:
        """Nobody waits any longer; what is kept can still be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
