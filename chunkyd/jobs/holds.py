"""What holds the queue or a folder for now: an unreachable server, a refused token, a root that is not there.

Kept in memory only: a restart asks the server and looks at the folders anyway. One probe stands for all jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from chunkyd.jobs.retry import probe_delay
from chunkyd.jobs.states import Reason
from chunkyd.settings import Retry

HOLDING = (Reason.AUTH, Reason.NETWORK)  # in the order in which they are shown


class Held(msgspec.Struct, frozen=True):
    """Why the queue stands; `since` is wall time, `next_probe` monotonic."""

    reason: Reason
    error: str
    since: float
    probes: int
    next_probe: float


class Holds:
    """All of them; any thread may ask or tell."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._random = random
        self._held: dict[Reason, Held] = {}
        self._missing: frozenset[str] = frozenset()

    def held(self) -> Held | None:
        """What holds the whole queue, if anything does."""
        with self._lock:
            return next((self._held[reason] for reason in HOLDING if reason in self._held), None)

    def hold(self, reason: Reason, error: str, wall: float, monotonic: float, retry: Retry) -> bool:
        """Hold the queue; False where it is held for this already: the jobs that were under way fail one by one."""
        with self._lock:
            if reason in self._held:
                return False
            self._held[reason] = self._next(Held(reason, error, wall, 0, 0.0), error, monotonic, retry)
            return True

    def probe_failed(self, reason: Reason, error: str, monotonic: float, retry: Retry) -> None:
        """It is as it was: look again later, and less often."""
        with self._lock:
            if reason in self._held:
                self._held[reason] = self._next(self._held[reason], error, monotonic, retry)

    def _next(self, held: Held, error: str, monotonic: float, retry: Retry) -> Held:
        probes = held.probes + 1
        wait = probe_delay(probes, retry.base, retry.max, self._random())
        return Held(held.reason, error, held.since, probes, monotonic + wait)

    def probe_now(self, monotonic: float) -> None:
        """The next probe is due at once."""
        with self._lock:
            for reason, held in self._held.items():
                self._held[reason] = msgspec.structs.replace(held, next_probe=monotonic)

    def lift(self, reason: Reason) -> bool:
        """Let the queue go on; False where this did not hold it."""
        with self._lock:
            return self._held.pop(reason, None) is not None

    def missing(self) -> frozenset[str]:
        """The folders whose root is not there."""
        with self._lock:
            return self._missing

    def set_missing(self, folder: str, *, missing: bool) -> bool:
        """A root went away or came back; False where that was known."""
        with self._lock:
            before = self._missing
            self._missing = before | {folder} if missing else before - {folder}
            return self._missing != before
