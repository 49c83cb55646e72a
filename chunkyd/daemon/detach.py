"""Into the background and back: python-daemon (imported only here) detaches, the state folder's lock says who runs.

DaemonContext closes descriptors and forks, so it comes before any thread, database, socket or watch of ours, and every
path is absolute by then. The parent waits until the daemon answers or has failed, so `start` reports what happened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping

from chunkyd import log
from chunkyd.clock import Clock
from chunkyd.daemon.lock import holder
from chunkyd.daemon.service import Service
from chunkyd.errors import AlreadyRunning, ChunkyError, EnvironmentFailure, StateError
from chunkyd.files import make_durable_folder
from chunkyd.settings import DaemonSettings

LOG_NAME = "daemon.log"
_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.05


def detach_and_run(settings: DaemonSettings, config: str, environ: Mapping[str, str], clock: Clock) -> None:
    """Fork a daemon; returns in the parent when it serves, raises EnvironmentFailure where it does not come up."""
    pid = holder(settings.state_dir)
    if pid is not None:
        raise AlreadyRunning(f"chunkyd runs already (process {pid})", mend="`chunkyd restart` begins it anew")
    log_path = os.path.join(settings.state_dir, LOG_NAME)
    try:
        make_durable_folder(settings.state_dir)
        log_file = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"{log_path} cannot be written: {error.strerror}",
            mend="make the state folder writable for this user, or set state_dir",
        ) from error
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.close(log_file)
        _wait_until_up(reader, log_path)
        return
    os.close(reader)
    _become_daemon(settings, config, environ, clock, log_file, writer)


def _wait_until_up(reader: int, log_path: str) -> None:
    with os.fdopen(reader, "rb") as pipe:
        if pipe.read(1) == b"1":  # the end of the file comes when the daemon has failed
            return
    raise EnvironmentFailure("chunkyd did not start", mend=f"{log_path} says why")


def _become_daemon(
    settings: DaemonSettings, config: str, environ: Mapping[str, str], clock: Clock, log_file: int, writer: int
) -> None:
    import daemon

    stream = os.fdopen(log_file, "w", buffering=1)
    context = daemon.DaemonContext(
        working_directory="/",
        umask=0o077,
        files_preserve=[writer, stream],
        stdout=stream,
        stderr=stream,
        detach_process=True,
        signal_map={},
    )
    context.open()
    code = 1
    try:
        log.configure(settings.log, "chunkyd")
        Service(settings, config, environ, clock, up=lambda: _say_up(writer)).run()
        code = 0
    except ChunkyError as error:
        sys.stderr.write(f"chunkyd: {error}\n")
        code = error.exit_code
    except Exception:
        logging.getLogger("chunkyd.daemon").exception("unexpected")
    finally:
        sys.stderr.flush()
        os._exit(code)  # a fork of the command: its own clean-up belongs to the parent


def _say_up(writer: int) -> None:
    os.write(writer, b"1")
    os.close(writer)


def stop_running(state_dir: str) -> int | None:
    """End the daemon that holds this state folder; its process number, or None where none does.

    Raises EnvironmentFailure where it does not end: what it has stored is safe all the same.
    """
    pid = holder(state_dir)
    if pid is None:
        return None
    try:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise EnvironmentFailure(f"process {pid} is another user's", mend="stop it as that user, or as root") from error
    deadline = time.monotonic() + _STOP_SECONDS
    while holder(state_dir) == pid:
        if time.monotonic() > deadline:
            raise EnvironmentFailure(
                f"process {pid} has not ended within {_STOP_SECONDS:.0f} s", mend=f"`kill -9 {pid}` loses nothing"
            )
        time.sleep(_LOOK_SECONDS)
    return pid
