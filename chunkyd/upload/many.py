"""Several files with a few threads: small ones together, one big one at a time with all its connections.

What stops one file for a reason that stops them all (nobody answers, the token is refused, the URL is wrong) ends the
rest at once: five attempts for each of two thousand files help nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from chunkyd.errors import ChunkyError, EnvironmentFailure, Interrupted, NotChunky, Problem
from chunkyd.files import Fingerprint
from chunkyd.threads import start
from chunkyd.turns import in_turn
from chunkyd.upload.memory import Origin
from chunkyd.upload.progress import Progress
from chunkyd.upload.together import MOST_FILES, Small, Together
from chunkyd.upload.tree import Found
from chunkyd.upload.uploader import Result, Uploader

WORKERS = 4
_GROUPS = 3  # requests of small files at once: while one comes and one is committed, the next is read
_LEAST = 128  # files that are worth a request of their own
_SMALL_BYTES = 8 * 1024 * 1024
_FOR_ALL = frozenset({"unauthorized", "quota-exceeded", "storage-full"})


class Outcome(msgspec.Struct, frozen=True):
    """What became of one file."""

    file: Found
    result: Result | None = None
    error: ChunkyError | None = None


class Delivery:
    """Sends files; `told` and `finished` are called from its threads, one at a time.

    `make` builds the uploader of one file, which reports to the callback it is given. With `together`, small files
    go many in a request, but for those of which `alone` says that they have begun otherwise before;
    `origin` is theirs, as a `Memory` has it.
    """

    def __init__(
        self,
        files: Sequence[Found],
        make: Callable[[Found, Callable[[Progress], None]], Uploader],
        told: Callable[[Found, Progress], None],
        finished: Callable[[Outcome], None],
        together: Together | None = None,
        alone: Callable[[Found], bool] = lambda file: False,
        origin: Callable[[Fingerprint], Origin] | None = None,
    ) -> None:
        small: deque[Found] = deque()
        waiting: deque[Found] = deque()
        for file in files:
            (small if together and together.takes(file.size) and not alone(file) else waiting).append(file)
        self._small, self._waiting = (small, waiting) if len(small) > 1 else (deque(), deque(files))
        self._together = together
        self._origin = origin
        self._make = make
        self._told = told
        self._finished = finished
        self._guard = threading.Lock()
        self._speaking = threading.Lock()
        self._big = threading.Semaphore(1)
        self._groups = threading.Semaphore(_GROUPS)
        self._active: set[Uploader] = set()
        self._stopped = False
        self._fatal: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name="chunky-file", daemon=True)
            for _ in range(min(WORKERS, len(files)))
        ]
        self._working = 1  # the one that starts them counts too
        self._over = threading.Event()  # Thread.join, interrupted by Ctrl-C, takes a thread that works for an ended one

    def run(self) -> None:
        """Send them all; returns when the last one has ended. Raises what is a bug."""
        try:
            for number, thread in enumerate(self._threads):
                with self._guard:
                    self._working += 1
                try:
                    start(thread)
                except EnvironmentFailure:
                    self._leave()
                    if number == 0:
                        raise
                    break  # fewer do it too
        finally:
            self._leave()
        self.wait()
        if self._fatal is not None:
            raise self._fatal

    def wait(self, seconds: float | None = None) -> None:
        """Return when the last one has ended, or after so many seconds."""
        self._over.wait(seconds)

    def stop(self) -> None:
        """End the files under way within a second, and begin no other."""
        with self._guard:
            self._stopped = True
            active = list(self._active)
        for uploader in active:
            uploader.stop()

    def rest(self) -> list[Found]:
        """The files that were never begun."""
        with self._guard:
            return [*self._small, *self._waiting]

    def _work(self) -> None:
        try:
            while True:
                more = self._work_together()
                file = self._next()
                if file is None:
                    if not more:
                        return
                elif file.size > _SMALL_BYTES:
                    with self._big:
                        self._send(file)
                else:
                    self._send(file)
        except BaseException as error:  # noqa: BLE001  # raised again by run
            self._fatal = error
            self.stop()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._guard:
            self._working -= 1
            if self._working == 0:
                self._over.set()

    def _work_together(self) -> bool:
        """Small files as long as there are any, a few threads at once; what needs an upload of its own waits.

        True where there may be more: a group of which nothing was sent has met what an upload of its own tells apart,
        and waits for, before the next group meets it too.
        """
        if self._together is None or not self._groups.acquire(blocking=False):
            return False
        try:
            while group := self._next_group(self._together.most_bytes):
                if not self._send_group(self._together, group):
                    return True
        finally:
            self._groups.release()
        return False

    def _next_group(self, most_bytes: int) -> list[Found]:
        """As many as a request is worth; at the end so few that the threads have as much to do as each other."""
        group: list[Found] = []
        with self._guard:
            most = min(MOST_FILES, max(_LEAST, -(-len(self._small) // _GROUPS)))
            while self._small and not self._stopped and len(group) < most and most_bytes > 0:
                group.append(self._small.popleft())
                most_bytes -= group[-1].size
        return group

    def _send_group(self, together: Together, group: list[Found]) -> bool:
        """Whether any of them was sent."""
        try:
            files = [Small(file.source, file.path, origin=self._origin) for file in group]
            results = together.send(files, lambda: self._stopped)
        except Interrupted as error:
            outcomes = [Outcome(file, error=error) for file in group]
        else:
            outcomes = [Outcome(file, result) for file, result in zip(group, results, strict=True) if result]
            with self._guard:
                self._waiting.extend(file for file, result in zip(group, results, strict=True) if not result)
        with self._speaking, in_turn():
            for outcome in outcomes:
                self._finished(outcome)
        return any(outcome.result for outcome in outcomes)

    def _next(self) -> Found | None:
        with self._guard:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _send(self, file: Found) -> None:
        try:
            outcome = Outcome(file, self._upload(file))
        except ChunkyError as error:
            outcome = Outcome(file, error=error)
            if _stops_all(error):
                self.stop()
        with self._speaking:
            self._finished(outcome)

    def _upload(self, file: Found) -> Result:
        uploader = self._make(file, lambda progress: self._tell(file, progress))
        with self._guard:
            self._active.add(uploader)
            if self._stopped:
                uploader.stop()
        try:
            return uploader.upload()
        finally:
            with self._guard:
                self._active.discard(uploader)

    def _tell(self, file: Found, progress: Progress) -> None:
        with self._speaking:
            self._told(file, progress)


def _stops_all(error: ChunkyError) -> bool:
    if isinstance(error, Problem):
        return error.name in _FOR_ALL
    return isinstance(error, NotChunky | EnvironmentFailure) and not isinstance(error, Interrupted)
