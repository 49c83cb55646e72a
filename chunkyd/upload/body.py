"""What a request sends, read piece by piece. A generator would make requests send two contradictory lengths."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from chunkyd.protocol.ranges import Range
from chunkyd.upload.connection import Exchange
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.source import READ_BYTES


class Content(Protocol):
    """Where the bytes come from: a source, or bytes in memory."""

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes at `start`; never none where there should be some."""
        ...


class Body:
    """A range of some content as a request's body: read piece by piece, paid for at the limiter, counted."""

    def __init__(
        self,
        source: Content,
        chunk: Range,
        limiter: Limiter | None,
        proceed: Callable[[], None],
        sent: Callable[[int], None],
    ) -> None:
        self._source = source
        self._start, self._stop = chunk
        self._position = self._start
        self._limiter = limiter
        self._proceed = proceed
        self._sent = sent
        self.exchange: Exchange | None = None

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(READ_BYTES):
            yield piece

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, counted from the beginning of the range."""
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._position, os.SEEK_END: self._stop}[whence]
        self._position = min(max(base + offset, self._start), self._stop)
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most a megabyte; SourceChanged where the file has become shorter."""
        self._proceed()
        left = self._stop - self._position
        size = min(left, READ_BYTES, size if size >= 0 else left)
        if size == 0:
            return b""
        if self._limiter is not None:
            size = self._limiter.take(size, self._wait)
        piece = self._source.read(self._position, size)
        self._position += len(piece)
        self._sent(len(piece))
        return piece

    def _wait(self) -> None:
        self._proceed()
        if self.exchange is not None:
            self.exchange.excuse(time.monotonic())
