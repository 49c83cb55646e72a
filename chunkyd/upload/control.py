"""Pause, resume and stop, from any thread, of an upload that runs in another."""

from __future__ import annotations

import threading

from chunkyd.errors import Interrupted
from chunkyd.upload.connection import Switch

LOOK_SECONDS = 0.2  # how often whoever waits looks whether it is to stop


class Control:
    """What an upload asks between two steps. `stop`: an event of the caller's that stops it too."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop or threading.Event()
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._guard = threading.Lock()
        self._switch = Switch()

    @property
    def paused(self) -> bool:
        """Whether nothing new is to be begun."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Begin nothing new; what is under way ends."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    def stop(self) -> None:
        """End it, in the middle of whatever it does."""
        self._stopped.set()
        with self._guard:
            self._switch.pull()

    def fresh_switch(self) -> Switch:
        """A switch for the connections of the next part of the upload; `stop` pulls it."""
        with self._guard:
            self._switch = Switch()
            if self._stopped.is_set():
                self._switch.pull()
            return self._switch

    def check(self) -> None:
        """Raise Interrupted where it is to stop."""
        if self._stop.is_set() and not self._stopped.is_set():
            self.stop()
        if self._stopped.is_set():
            raise Interrupted(
                "stopped on request", mend="What is stored stays stored: the same upload goes on from there."
            )

    def sleep(self, seconds: float) -> None:
        """Wait; Interrupted ends it."""
        rest = seconds
        while rest > 0:
            self.check()
            self._stopped.wait(min(rest, LOOK_SECONDS))
            rest -= LOOK_SECONDS
        self.check()

    def hold(self) -> None:
        """Wait while paused."""
        self.check()
        while self.paused:
            self._running.wait(LOOK_SECONDS)
            self.check()
