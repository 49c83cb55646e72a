"""The socket file: never wider than meant, not even for a moment; a dead daemon's is replaced, a live one's never.

`fchmod` before `bind` gives the file its mode (less the umask) from its first moment; the umask, which belongs to
all threads, is left alone. Group and 0660 come before `listen`: until then nobody can connect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from chunkyd.control.access import group_id
from chunkyd.control.base import check_length
from chunkyd.errors import AlreadyRunning, ConfigError, StateError

_PATIENCE = 2.0  # seconds for a living daemon to take a connection


class Listener:
    """A bound socket (not listening yet) and the file it stands for."""

    def __init__(self, path: str, group: str | None) -> None:
        check_length(path)
        self.path = path
        self.group = None if group is None else group_id(group)
        self._make_folder()
        self._clear_the_way()
        self.socket = self._bind()
        status = os.lstat(path)
        self._identity = (status.st_dev, status.st_ino)

    def _make_folder(self) -> None:
        """The folders in between; with a group others may pass through them, and the socket alone keeps them out."""
        missing = []
        folder = os.path.dirname(os.path.abspath(self.path))
        while not os.path.isdir(folder) and folder != "/":
            missing.append(folder)
            folder = os.path.dirname(folder)
        try:
            for folder in reversed(missing):
                os.mkdir(folder, 0o700)
                if self.group is not None:
                    os.chmod(folder, 0o755)  # noqa: S103  # to pass through; mkdir's mode is narrowed by the umask
        except FileExistsError:
            pass  # another was quicker, or it is no folder: then bind says so
        except OSError as error:
            raise _unusable(self.path, f"its folder cannot be made: {error.strerror}") from error

    def _clear_the_way(self) -> None:
        """Remove the socket file of a daemon that is gone; raise where one lives, or where it is something else."""
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from error
        if not stat.S_ISSOCK(mode):
            raise ConfigError(f"control.socket: {self.path} is there and is no socket", mend="Name another path")
        if _is_alive(self.path):
            raise _taken(self.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _bind(self) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(bound.fileno(), 0o600)
            bound.bind(self.path)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:  # another daemon was quicker
                raise _taken(self.path) from error
            raise _unusable(self.path, error.strerror or str(error)) from error
        try:
            self._open_to_the_group()
        except OSError as error:
            bound.close()
            os.unlink(self.path)
            mend = "Let the daemon's user be a member of it, or name another in control.group"
            raise ConfigError(f"{self.path} cannot be given to its group: {error.strerror}", mend=mend) from error
        return bound

    def _open_to_the_group(self) -> None:
        if self.group is not None:
            os.chown(self.path, -1, self.group)
            os.chmod(self.path, 0o660)

    def remove(self) -> None:
        """Take the file away, if it is still ours; one that is gone is fine."""
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)


def _is_alive(path: str) -> bool:
    """Whether somebody listens; what cannot be asked counts as alive, so that nothing of others is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def _taken(path: str) -> AlreadyRunning:
    mend = "Stop it with `chunkyd stop` or systemctl, or give this one another control.socket"
    return AlreadyRunning(f"another chunkyd listens at {path}", mend=mend)


def _unusable(path: str, why: str) -> StateError:
    mend = "Let the daemon's user write there, or name another path in control.socket"
    return StateError(f"the control socket {path} cannot be made: {why}", mend=mend)
