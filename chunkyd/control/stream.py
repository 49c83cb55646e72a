"""Events as a stream of lines (NDJSON): each an Event, an empty one where nothing happens for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from chunkyd.control.base import Backend, Event, EventBatch
from chunkyd.protocol.documents import encode

WAIT_SECONDS = 1.0  # how soon a stream notices that the daemon stops
SILENT_ROUNDS = 10  # waits without an event before an empty line; it finds out peers that are gone
STALLED_SECONDS = 10.0  # for a peer to take what is written


class StreamSlots:
    """How many streams there may be at once; closed, there may be none, and those there are end."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)
        self.closed = threading.Event()

    def take(self) -> bool:
        """False where all are taken; what was taken is given back once."""
        return not self.closed.is_set() and self._free.acquire(blocking=False)

    def give_back(self) -> None:
        """After a stream's end."""
        self._free.release()


class EventStream:
    """The body of an answer. It holds a slot from `take` to `close`, which the server calls whatever happens."""

    def __init__(
        self, backend: Backend, since: int | None, slots: StreamSlots, allow: Callable[[float | None], None]
    ) -> None:
        self._backend = backend
        self._since = since
        self._slots = slots
        self._allow = allow
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        """Lines until the peer is gone or the daemon stops."""
        batch = self._backend.events(self._since, 0.0)
        at = batch.last if self._since is None or batch.gap else self._since
        yield self._write(_line(Event(id=at, kind="stream")))
        silent = 0
        while not self._slots.closed.is_set():
            lines = _lines(batch)
            silent = 0 if lines else silent + 1
            if lines or silent >= SILENT_ROUNDS:
                silent = 0
                yield self._write(lines or b"\n")
            self._allow(None)
            batch = self._backend.events(batch.last, WAIT_SECONDS)

    def _write(self, lines: bytes) -> bytes:
        self._allow(STALLED_SECONDS)
        return lines

    def close(self) -> None:
        """Give the slot back."""
        if self._open:
            self._open = False
            self._slots.give_back()


def _lines(batch: EventBatch) -> bytes:
    gap = b""
    if batch.gap:
        before = batch.events[0].id - 1 if batch.events else batch.last
        text = "events up to this one are no longer known: read the state anew"
        gap = _line(Event(id=before, kind="gap", text=text))
    return gap + b"".join(map(_line, batch.events))


def _line(event: Event) -> bytes:
    return encode(event) + b"\n"
