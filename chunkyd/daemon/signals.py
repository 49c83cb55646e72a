"""What signals ask of a daemon. The main thread sleeps here, and carries it out.

The kernel gives a process's signal to any thread that may have it: to another than the main one above all when the
process was stopped, or has a second signal at the same moment. Python runs its handlers in the main thread only, and
that one does not wake up for a signal that another thread has taken. The byte that is written for every signal, by
whichever thread, wakes it.
"""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from collections.abc import Mapping
from types import FrameType


class Signals:
    """Made in the main thread; from then on nothing that is asked for is lost."""

    def __init__(self, meanings: Mapping[signal.Signals, str]) -> None:
        self._meanings = meanings
        self._asked: deque[str] = deque()
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # a full pipe wakes as well as one more byte
        for number in meanings:
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self._asked.append(self._meanings[signal.Signals(number)])

    def wait(self, seconds: float | None) -> str | None:
        """What was asked for next; None where nothing was for so long."""
        while not self._asked:
            ready, _, _ = select.select([self._reader], [], [], seconds)
            if not ready:
                return None
            os.read(self._reader, 4096)
        return self._asked.popleft()
