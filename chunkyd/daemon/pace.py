"""How often something is tried again that does not succeed: pure."""

from __future__ import annotations

_FIRST_SECONDS = 1.0
_MOST_SECONDS = 60.0


class Pace:
    """Whatever failed is due again ever later; success begins anew. Monotonic seconds."""

    def __init__(self) -> None:
        self.next = 0.0
        self._pause = _FIRST_SECONDS

    def due(self, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self.next

    def tried(self, succeeded: bool, now: float) -> None:
        """How it went."""
        if succeeded:
            self.next, self._pause = 0.0, _FIRST_SECONDS
            return
        self.next, self._pause = now + self._pause, min(_MOST_SECONDS, 2 * self._pause)
