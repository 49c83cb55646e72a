"""Uploads whose hash comes last (the late-hash extension): which files are read once, and how far the hash may go.

Rules: a file is read once only where it cannot change unseen (`Source.holds_still`), where that is worth a request, and
where its hash would be of no use before: the server may have a file of a size that was sent before, and needs no byte
of it then. The hash stays behind the chunks, so that it finds their pages in the cache however slow the line is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from chunkyd.errors import Interrupted
from chunkyd.files import Fingerprint
from chunkyd.protocol.late_hash import file_version
from chunkyd.protocol.ranges import Range, RangeSet
from chunkyd.upload.control import LOOK_SECONDS
from chunkyd.upload.memory import UploadKey

LATE_BYTES = 8 << 20  # of a smaller file the hash takes no longer than the requests this costs


def version_name(key: UploadKey, found: Fingerprint) -> str:
    """What stands for the hash of this version: after a crash the same again, of another place or version another."""
    return file_version(repr((key.url, key.source, key.path, found.inode, found.size, found.mtime_ns, found.ctime_ns)))


class Frontier:
    """How far a file has begun to be sent, without a gap from its first byte on; any thread may call."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._begun = RangeSet()
        self._stopped = False
        self._moved = threading.Condition()

    def begin(self, ranges: Iterable[Range]) -> None:
        """These bytes are being sent, or need not be."""
        with self._moved:
            for start, stop in ranges:
                self._begun.add(start, stop)
            self._moved.notify_all()

    def begin_all_but(self, missing: Iterable[Range]) -> None:
        """The server has all others."""
        self.begin(RangeSet(missing).missing(0, self._total))

    def stop(self) -> None:
        """Whoever follows is to end."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()

    def follow(self, position: int, proceed: Callable[[], None]) -> None:
        """Return when the byte at `position` may be read. Raises Interrupted, and what `proceed` raises meanwhile."""
        while True:
            proceed()
            with self._moved:
                if self._stopped:
                    raise Interrupted("stopped on request")
                if self._begun.prefix > position:
                    return
                self._moved.wait(LOOK_SECONDS)
