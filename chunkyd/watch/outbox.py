"""What is to be told to the daemon, in order; what it cannot take now is offered again, and nothing overtakes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from chunkyd.errors import EnvironmentFailure
from chunkyd.watch.shapes import Settled, Sink

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_AT_ONCE = 1000


class Backoff:
    """When something that failed may be tried again; says why it failed."""

    def __init__(self) -> None:
        self._pause = 0.0
        self.until: float | None = None
        self.error: EnvironmentFailure | None = None

    def failed(self, error: EnvironmentFailure, now: float) -> None:
        """It failed: twice as long a pause as before."""
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
        self.until = now + self._pause
        self.error = error

    def worked(self) -> None:
        """It worked."""
        self._pause, self.until, self.error = 0.0, None, None

    def blocks(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return self.until is not None and now < self.until


class Outbox:
    """The calls to a sink that have not succeeded yet."""

    def __init__(self, folder: str, sink: Sink) -> None:
        self._folder = folder
        self._sink = sink
        self._calls: deque[Callable[[], None]] = deque()
        self._ready: list[Settled] = []
        self.telling = False

    def __len__(self) -> int:
        return len(self._calls) + len(self._ready)

    def settled(self, change: Settled) -> None:
        """A file is ready; consecutive ones travel together."""
        self._ready.append(change)
        if len(self._ready) >= _AT_ONCE:
            self._bundle()

    def _bundle(self) -> None:
        if self._ready:
            self._calls.append(partial(self._sink.settled, tuple(self._ready)))
            self._ready = []

    def _put(self, call: Callable[[], None]) -> None:
        self._bundle()
        self._calls.append(call)

    def scanned(self, then: Callable[[], None]) -> None:
        """A full scan has ended; `then` is called after the sink has heard it."""
        self._put(partial(self._sink.scanned, self._folder))
        self._calls.append(then)

    def left_behind(self, path: bytes) -> None:
        """A file has one of the daemon's own names."""
        self._put(partial(self._sink.left_behind, self._folder, path))

    def gone(self, path: bytes) -> None:
        """A path went away."""
        self._put(partial(self._sink.gone, self._folder, path))

    def root_missing(self) -> None:
        """The root went away."""
        self._put(partial(self._sink.root_missing, self._folder))

    def root_back(self) -> None:
        """The root is there."""
        self._put(partial(self._sink.root_back, self._folder))

    def deliver(self) -> None:
        """Make all calls; the one that raises, and those after it, stay for the next time."""
        self._bundle()
        self.telling = True
        try:
            while self._calls:
                self._calls[0]()
                self._calls.popleft()
        finally:
            self.telling = False
