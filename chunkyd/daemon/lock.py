"""One daemon for each state folder: an flock, which the kernel gives up with the process, however it ends.

A PID file alone goes stale; here the lock is the truth and the number in the file only says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from chunkyd.checkpoints import reached
from chunkyd.errors import AlreadyRunning, StateError
from chunkyd.files import make_durable_folder, remove_temporaries

_NAME = "daemon.lock"
_TRIES = 20
_PAUSE_SECONDS = 0.02


class StateLock:
    """Holds the state folder until `release` or the end of the process."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, _NAME)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it, or raise AlreadyRunning with the holder's process number."""
        try:
            make_durable_folder(os.path.dirname(self._path))
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"the state folder {os.path.dirname(self._path)} cannot be used: {error.strerror}",
                mend="make it writable for this user, or set state_dir",
            ) from error
        try:
            _take(descriptor, os.path.dirname(self._path))
        except BlockingIOError as error:
            os.close(descriptor)
            raise AlreadyRunning(
                f"another chunkyd (process {holder(os.path.dirname(self._path)) or 'unknown'}) "
                f"works on {os.path.dirname(self._path)}",
                mend="stop it, or give this one a state_dir of its own",
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same, only its number is not told
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            os.ftruncate(descriptor, len(b"%d\n" % os.getpid()))
        self._descriptor = descriptor
        reached("daemon.lock.taken")
        with contextlib.suppress(OSError):  # they are in nobody's way
            remove_temporaries(os.path.dirname(self._path))

    def release(self) -> None:
        """Let another daemon have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _take(descriptor: int, state_dir: str) -> None:
    """Lock it. Whoever asks `holder` has a shared lock for a moment, and no number stands for him: then once more."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if holder(state_dir) is not None:
                raise
            time.sleep(_PAUSE_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(state_dir: str) -> int | None:
    """The process that holds the lock now; None where nobody does."""
    try:
        descriptor = os.open(os.path.join(state_dir, _NAME), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"the state folder {state_dir} cannot be read: {error.strerror}",
            mend="try as the daemon's user, or as root",
        ) from error
    with contextlib.closing(os.fdopen(descriptor, "rb")):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            text = os.pread(descriptor, 32, 0).strip()
            return int(text) if text.isdigit() else None
    return None
