"""The door to watchdog: inotify events in, raw hints out. Nothing else in the product imports watchdog.

- One inotify instance and one reading thread for all folders; one watch for each directory, placed by whoever walks the
  directory, on the very descriptor it reads. So what was there before the watch is found by the walk, and what comes
  later by events. watchdog's recursive emitters are not used: they swallow a reached watch limit, and answer an
  overflowed queue by placing every watch again, which overflows it again.
- Events that tell nothing (opened, closed unwritten) are not asked for.
- Hints are only passed on. Who owns a directory reads them in its own thread, in order.
- A lost event is told: a full queue of the kernel, or of the owner, arrives as one OVERFLOW.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

if TYPE_CHECKING:
    from collections.abc import Iterable

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_EXCL_UNLINK
)
_BREATH = 0.01  # seconds in which the kernel joins a busy writer's events into one
_BUSY = 256  # events at once: no breath, the queue must not overflow
_LONGEST_BACKLOG = 50_000
MAX_WATCHES = "/proc/sys/fs/inotify/max_user_watches"


class Kind(Enum):
    """What a hint says of `name` in a watched directory; of the directory itself where `name` is empty."""

    TOUCHED = auto()  # a file came, was closed after writing, or got other attributes
    WRITTEN = auto()  # a file is being written
    GONE = auto()
    DIRECTORY_TOUCHED = auto()
    DIRECTORY_GONE = auto()
    SELF_GONE = auto()  # deleted or moved away
    UNMOUNTED = auto()
    WATCH_LOST = auto()
    OVERFLOW = auto()  # of no directory: events were lost


class Hint(NamedTuple):
    """A raw hint. `watch` is None for OVERFLOW."""

    kind: Kind
    watch: DirectoryWatch | None = None
    name: bytes = b""


class Channel:
    """Where the hints for one folder arrive; bounded, so that a stuck reader costs a rescan and no memory."""

    def __init__(self, put: Callable[[Hint], None], backlog: Callable[[], int]) -> None:
        self._put = put
        self._backlog = backlog
        self._overflowed = threading.Event()

    def post(self, hint: Hint) -> None:
        """Pass one hint on; after an overflow nothing more, until it was noticed."""
        if self._overflowed.is_set():
            return
        if self._backlog() > _LONGEST_BACKLOG:
            self.overflow()
        else:
            self._put(hint)

    def overflow(self) -> None:
        """Say once that hints were lost."""
        if not self._overflowed.is_set():
            self._overflowed.set()
            self._put(Hint(Kind.OVERFLOW))

    def noticed(self) -> None:
        """The overflow was read; hints count again."""
        self._overflowed.clear()


class DirectoryWatch:
    """The watch on one directory, and what watchdog calls when something happens in it."""

    __slots__ = ("_channel", "descriptor", "generation", "owner")

    def __init__(self, channel: Channel, owner: object, generation: int) -> None:
        self._channel = channel
        self.owner = owner
        self.generation = generation
        self.descriptor = WatchDescriptor(-1)

    def on_event(self, event: InotifyEvent) -> None:
        """One event, in the reading thread."""
        kind = _kind(event.mask, bool(event.name))
        if kind is not None:
            self._channel.post(Hint(kind, self, event.name))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The kernel dropped the watch: the directory is deleted or unmounted."""
        self._channel.post(Hint(Kind.WATCH_LOST, self))

    def on_queue_overflow(self) -> None:
        """Called for every watch; the channel says it once."""
        self._channel.overflow()


_FILE_KINDS = (
    (InotifyConstants.IN_MODIFY, Kind.WRITTEN),
    (InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM, Kind.GONE),
)
_DIRECTORY_KINDS = (
    (InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM, Kind.DIRECTORY_GONE),
    (InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_ATTRIB, Kind.DIRECTORY_TOUCHED),
)
_SELF_KINDS = (
    (InotifyConstants.IN_UNMOUNT, Kind.UNMOUNTED),
    (InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF, Kind.SELF_GONE),
)


def _kind(mask: int, named: bool) -> Kind | None:
    if not named:
        return next((kind for bits, kind in _SELF_KINDS if mask & bits), None)
    if mask & InotifyConstants.IN_ISDIR:
        return next((kind for bits, kind in _DIRECTORY_KINDS if mask & bits), None)
    return next((kind for bits, kind in _FILE_KINDS if mask & bits), Kind.TOUCHED)


class _Reader(InotifyFD):
    """watchdog's reading thread, which takes a breath: a busy writer's events are joined by the kernel meanwhile."""

    def read_events(self, *, event_buffer_size: int = 1 << 16) -> list[InotifyEvent]:
        events = super().read_events(event_buffer_size=event_buffer_size)
        if len(events) < _BUSY:
            self.stopped_event.wait(_BREATH)
        return events


class Observer:
    """All watches of the process. `limit` lowers the kernel's limit on their number."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._reader: _Reader | None = None
        self._placed = 0
        self.generation = 0

    def start(self) -> None:
        """Open inotify and read it; OSError (EMFILE) where the user has no instance left."""
        with self._lock:
            self._open()

    def _open(self) -> None:
        reader = _Reader()
        reader.name = "chunkyd-inotify"
        reader.start()
        self._reader, self._placed = reader, 0
        self.generation += 1

    def stop(self, timeout: float) -> None:
        """Drop all watches; waits for the reading thread."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            reader.join(timeout)

    def alive(self) -> bool:
        """Whether events are being read."""
        reader = self._reader
        return reader is not None and reader.is_alive()

    def revive(self) -> None:
        """Start reading again if the thread has died; every watch is gone then, and `generation` another."""
        with self._lock:
            dead = self._reader
            if dead is None or dead.is_alive():
                return
            with contextlib.suppress(OSError):
                dead.stop()
            self._open()

    def watch(self, directory: int, channel: Channel, owner: object, *, renewed: bool = False) -> DirectoryWatch:
        """Watch an open directory, whatever its path has become. OSError; ENOSPC where the limit is reached."""
        with self._lock:
            watch = DirectoryWatch(channel, owner, self.generation)
            reader = self._reader
            if reader is None:
                raise OSError(errno.EBADF, "not watching")
            if self._limit is not None and self._placed >= self._limit and not renewed:
                raise OSError(errno.ENOSPC, "watch limit reached")
            watch.descriptor = reader.add_callback(b"/proc/self/fd/%d" % directory, _MASK, watch, CallbackId(id(watch)))
            if watch.descriptor == -1:  # watchdog's way to say EACCES
                reader.remove_callbacks([(watch.descriptor, CallbackId(id(watch)))])
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._placed += 1
        return watch

    def renew(self, directory: int, channel: Channel, old: DirectoryWatch) -> DirectoryWatch:
        """Watch once more what may be watched already: one syscall where it is, a new watch where that one was lost."""
        watch = self.watch(directory, channel, old.owner, renewed=True)
        self.drop([old])
        return watch

    def drop(self, watches: Iterable[DirectoryWatch]) -> None:
        """Stop watching; what the kernel has dropped already is only counted."""
        with self._lock:
            for watch in watches:
                if watch.generation != self.generation:
                    continue  # it went with a reader that died
                self._placed -= 1
                if self._reader is not None:
                    with contextlib.suppress(OSError):
                        self._reader.remove_callbacks([(watch.descriptor, CallbackId(id(watch)))])


def watch_limit() -> int | None:
    """The kernel's limit on the number of watches of one user."""
    try:
        with open(MAX_WATCHES, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
