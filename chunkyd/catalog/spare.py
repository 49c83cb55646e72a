"""A little room set aside beside the catalog, for the day its disk is full.

To forget a session makes room, but needs some first: pages of the log. What finds none gives the spare room back and
is done once more; the room is set aside again as soon as there is enough. Without it a full disk would stay full: no
upload could be ended, and none would expire.
"""

from __future__ import annotations

import contextlib
import os
import threading

SPARE_BYTES = 1 << 20  # of a log of pages of 4 KiB: room to forget dozens of sessions, and each may free much more


class Spare:
    """The room, as a file that nobody reads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._missing = False
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Set it aside from now on; where there is no room, later."""
        self._missing = True
        self.renew()

    def renew(self) -> None:
        """Set it aside again where it was given back and there is room by now."""
        if not self._missing:
            return
        with self._lock, contextlib.suppress(OSError):  # it is for later: nobody waits for it, nothing depends on it
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < SPARE_BYTES:
                    os.posix_fallocate(descriptor, 0, SPARE_BYTES)
                self._missing = False
            except OSError:
                os.unlink(self._path)
            finally:
                os.close(descriptor)

    def give_back(self) -> bool:
        """Free it; False where there is none."""
        with self._lock:
            try:
                os.unlink(self._path)
            except OSError:
                return False
            self._missing = True
            return True
