"""Open files: a partial, or a published file. Used by several threads at once, closed by one of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator

from chunkyd.files import Fingerprint, disk_full_is_storage_full, fingerprint
from chunkyd.storage.system import start_writing_back

PIECES_AT_ONCE = os.sysconf("SC_IOV_MAX")
DISK_FULL_TEXT = "the data folder's disk is full"


def write_all(descriptor: int, *pieces: bytes | memoryview, offset: int = 0) -> None:
    """pwritev(2) until all of it is written, one piece after the other."""
    rest = deque(memoryview(piece).cast("B") for piece in pieces if len(piece))
    while rest:
        written = os.pwritev(descriptor, list(itertools.islice(rest, PIECES_AT_ONCE)), offset)
        offset += written
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if written:
            rest[0] = rest[0][written:]


class OpenFile:
    """A descriptor that is released only after the last call under way has returned.

    Without that, a write late by a moment would go to whatever file got the same number next.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._calls = 0
        self._closed = False
        self._lost: OSError | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # the kernel lets one write to a file at a time, too, but has the others spin

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """The descriptor, for the time of one call; ValueError once the file is closed."""
        with self._lock:
            if self._closed:
                raise ValueError("the file is closed")
            self._calls += 1
        try:
            yield self._descriptor
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._calls -= 1
            last = self._closed and self._calls == 0
        if last:
            os.close(self._descriptor)

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        """See `Partial`."""
        with self.held() as descriptor, disk_full_is_storage_full(DISK_FULL_TEXT), self._writing:
            write_all(descriptor, *pieces, offset=offset)

    def read(self, offset: int, length: int) -> bytes:
        """See `Partial`."""
        with self.held() as descriptor:
            return os.pread(descriptor, length, offset)

    def sync(self) -> None:
        """See `Partial`."""
        with self.held() as descriptor, disk_full_is_storage_full(DISK_FULL_TEXT):
            if self._lost is not None:
                raise OSError(self._lost.errno, "an earlier sync failed; what it lost is not known")
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._lost = error
                raise

    def flush_soon(self, start: int, stop: int) -> None:
        """See `Partial`."""
        if start < stop:
            with self.held() as descriptor:
                start_writing_back(descriptor, start, stop)

    def fingerprint(self) -> Fingerprint:
        """See `Reader`."""
        with self.held() as descriptor:
            return fingerprint(os.fstat(descriptor))

    def close(self) -> None:
        """See `Partial`; closing twice is fine."""
        with self._lock:
            now = not self._closed and self._calls == 0
            self._closed = True
        if now:
            os.close(self._descriptor)
