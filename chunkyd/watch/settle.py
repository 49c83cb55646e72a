"""When a file has been left alone for long enough. Pure: time comes as an argument, files as fingerprints.

- Events only say where to look; what two looks see decides. A file is ready when it was the same version for the whole
  settle time. How long it is quiet is known from the looks, or from its own times (`quiet`) where those can be trusted:
  so the moment is exact although nobody looks all the time.
- A file that changes at every look is looked at ever more rarely, once a minute at least; a hint that a writer has
  closed it brings the next look forward, and never shortens the settle time.
- A writer that pauses is not done: while somebody has the file open for writing it must be quiet ten times as long.
  Not for ever, or a log that is never closed would never arrive.
- Only files on their way are remembered. A file that is ready, gone or known is forgotten.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from chunkyd.files import Fingerprint

LONGEST_PAUSE = 60.0  # between two looks at a file that never settles
SHORTEST_PAUSE = 0.05  # between two looks asked for by hints
_LOOKS_BEFORE_PAUSING = 3
_CHANGING_AFTER = 3.0  # times the settle time
WRITER_FACTOR = 10.0  # times the settle time, for a file that somebody has open for writing


class _Entry:
    __slots__ = (
        "deadline",
        "failures",
        "fingerprint",
        "first_seen",
        "hinted",
        "last_look",
        "quiet_since",
        "restless",
        "stirred",
    )

    def __init__(self, now: float) -> None:
        self.fingerprint: Fingerprint | None = None
        self.first_seen = now
        self.quiet_since = now
        self.last_look = now - SHORTEST_PAUSE
        self.deadline = now
        self.hinted = True
        self.restless = 0
        self.failures = 0
        self.stirred = float("-inf")  # when an event first told of it; a scan cannot tell


class Settling:
    """The files of one root that are not ready yet. `settle` is in seconds."""

    def __init__(self, settle: float, *, stable_inodes: bool = True) -> None:
        self._settle = settle
        self._stable_inodes = stable_inodes
        self._entries: dict[bytes, _Entry] = {}
        self._deadlines: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: bytes) -> bool:
        return path in self._entries

    def hint(self, path: bytes, now: float) -> None:
        """Something happened to this file: look soon, but not more often than anybody needs."""
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = _Entry(now)
            entry.stirred = now
            self._schedule(path, entry, now)
            return
        entry.hinted = True
        soon = max(now, entry.last_look + SHORTEST_PAUSE)
        if soon < entry.deadline:
            self._schedule(path, entry, soon)

    def saw(
        self,
        path: bytes,
        fingerprint: Fingerprint,
        now: float,
        quiet: float = 0.0,
        written: Callable[[], bool] = lambda: False,
    ) -> bool:
        """A look saw this version, by its own times quiet for so many seconds. Whether it is ready (and forgotten).

        `written` tells whether somebody has it open for writing; it is asked only where the answer decides.
        """
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = _Entry(now)
        self._compare(entry, fingerprint, now, quiet)
        rested = now - entry.quiet_since
        if rested >= self._settle and (rested >= self._settle * WRITER_FACTOR or not written()):
            del self._entries[path]
            return True
        self._schedule(path, entry, self._next_look(entry, now))
        entry.hinted = False
        return False

    def _compare(self, entry: _Entry, fingerprint: Fingerprint, now: float, quiet: float) -> None:
        before = entry.fingerprint
        if before is None:
            # What stirred just now is not quiet for longer, though its own times say so: a clock may have been set.
            entry.quiet_since = now - min(quiet, now - entry.stirred)
        elif not fingerprint.same_version(before, stable_inodes=self._stable_inodes):
            # It changed after the last look: its own times cannot have been quiet for longer than that.
            entry.quiet_since = now - min(quiet, now - entry.last_look)
            entry.restless += not entry.hinted
        entry.fingerprint = fingerprint
        entry.last_look = now

    def _next_look(self, entry: _Entry, now: float) -> float:
        exact = entry.quiet_since + self._settle
        if exact <= now:  # only a writer holds it: its closing is a hint, and where that is lost we look again
            return now + max(self._settle, SHORTEST_PAUSE)
        doublings = entry.restless - _LOOKS_BEFORE_PAUSING
        if entry.hinted or doublings <= 0:
            return exact
        return max(exact, now + min(LONGEST_PAUSE, self._settle * 2.0 ** min(doublings, 20)))

    def forget(self, path: bytes) -> None:
        """It is gone, or no file to send."""
        self._entries.pop(path, None)

    def postpone(self, path: bytes, now: float) -> None:
        """It could not be looked at: again in a second, then ever more rarely."""
        entry = self._entries[path]
        self._schedule(path, entry, now + min(LONGEST_PAUSE, 2.0**entry.failures))
        entry.failures = min(entry.failures + 1, 10)

    def clear(self) -> None:
        """Forget all: the root is not there."""
        self._entries.clear()
        self._deadlines.clear()

    def _schedule(self, path: bytes, entry: _Entry, deadline: float) -> None:
        entry.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, path))

    def due(self, now: float, limit: int = 500) -> list[bytes]:
        """What is to be looked at now; each is then told to `saw`, `forget` or `postpone`."""
        paths: list[bytes] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(paths) < limit:
            deadline, path = heapq.heappop(self._deadlines)
            if self._is_current(deadline, path):
                paths.append(path)
        return list(dict.fromkeys(paths))

    def next_deadline(self) -> float | None:
        """When `due` has something next; None while nothing is on its way."""
        while self._deadlines:
            deadline, path = self._deadlines[0]
            if self._is_current(deadline, path):
                return deadline
            heapq.heappop(self._deadlines)
        return None

    def _is_current(self, deadline: float, path: bytes) -> bool:
        entry = self._entries.get(path)
        return entry is not None and entry.deadline == deadline

    def changing(self, now: float) -> list[bytes]:
        """The files that have been on their way for much longer than the settle time."""
        since = now - _CHANGING_AFTER * self._settle - 1.0
        return [path for path, entry in self._entries.items() if entry.first_seen < since]
