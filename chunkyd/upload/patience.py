"""How long to wait and when to give up: pure. Attempts, backoff with full jitter, Retry-After.

Failures of requests that were under way together are one attempt: each request carries the round it was made in, a
failure begins the next round, and only a failure of the current round counts. `wait` begins a round and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from chunkyd.errors import ChunkyError, Unreachable


class Patience:
    """`attempts` in a row without progress, at most; times in seconds; `random` gives floats in [0, 1)."""

    def __init__(self, attempts: int, base: float, most: float, random: Callable[[], float]) -> None:
        self.round = 1
        self.failures = 0
        self.not_before = 0.0
        self.used_up: Unreachable | None = None
        self._attempts = attempts
        self._base = base
        self._most = most
        self._random = random
        self._waits = 0
        self._ours = False  # the moment waited for is our own backoff, not what the peer asked for

    def progress(self) -> None:
        """Something was newly stored: the count begins anew, and our own backoff is over."""
        self.failures = self._waits = 0
        self.used_up = None
        if self._ours:
            self._ours, self.not_before = False, 0.0

    def failed(
        self, number: int, error: ChunkyError, retry_after: float | None, now: float, *, back_off: bool = True
    ) -> bool:
        """A request of this round failed; whether that was news."""
        if number != self.round:
            return False
        self.round += 1
        self.failures += 1
        if self.failures >= self._attempts:
            self.used_up = _unreachable(error, self.failures)
        elif back_off:
            delay = max(self._random() * self._ceiling(self.failures), retry_after or 0.0)
            self.not_before = max(self.not_before, now + delay)
            self._ours = retry_after is None
        return True

    def hold(self, number: int, retry_after: float | None, now: float) -> None:
        """The peer asks to wait; without a time, as long as a backoff would."""
        if number != self.round:
            return
        self.round += 1
        self._waits += 1
        delay = self._ceiling(self._waits) * (0.5 + self._random() / 2) if retry_after is None else retry_after
        # not all waiting clients in the same moment
        self.not_before = max(self.not_before, now + delay * (1 + self._random() / 10))
        self._ours = False

    def over(self, now: float) -> bool:
        """Whether the wait, if there was one, is over."""
        if now < self.not_before:
            return False
        self.not_before = 0.0
        return True

    def _ceiling(self, count: int) -> float:
        return min(self._most, self._base * 2.0 ** min(count - 1, 60))


def _unreachable(error: ChunkyError, failures: int) -> Unreachable:
    given_up = Unreachable(
        f"{error.what}; {failures} attempts in a row without progress",
        mend=f"{error.mend} What is stored stays stored: the same upload goes on from there.".lstrip(),
    )
    given_up.__cause__ = error
    return given_up
