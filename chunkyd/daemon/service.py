"""The life of a daemon process: lock, log, signals, the engine, readiness, the watchdog, a clean end.

Signals are only noted: the main thread sleeps until there is one, and carries it out. Ready is said after recovery,
when the control socket answers; stopping takes less than ten seconds.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from typing import TYPE_CHECKING

from chunkyd import notify
from chunkyd.clock import Clock
from chunkyd.daemon.lock import StateLock
from chunkyd.daemon.signals import Signals
from chunkyd.errors import EXIT_DONE
from chunkyd.jobs.checking import JOB_TABLE, begin_check
from chunkyd.settings import DaemonSettings
from chunkyd.threads import none_left_is_told

if TYPE_CHECKING:
    from chunkyd.daemon.engine import Engine

_LOG = logging.getLogger("chunkyd.daemon")
_STOP_SECONDS = 8.0


def _end_now() -> None:
    """End without waiting for threads that hang on a disk, or copy a big file: they are safe to be cut off anywhere."""
    logging.shutdown()
    os._exit(EXIT_DONE)


def _nobody_waits() -> None:
    """In the foreground nobody waits to be told that it serves."""


def _checked_and_loaded(settings: DaemonSettings, config: str, environ: Mapping[str, str], clock: Clock) -> Engine:
    """The job table is checked while the rest of the daemon is loaded: with many jobs that takes as long."""
    check = begin_check(os.path.join(settings.state_dir, JOB_TABLE))
    try:
        from chunkyd.daemon.engine import Engine
        from chunkyd.upload.source import install_lease_handler

        install_lease_handler()
        return Engine(settings, config, environ, clock, check)
    finally:
        wait([check])


class Service:
    """Runs until it is told to stop, from its creation on: in the main thread, before any other thread exists.

    Creating it takes the state folder; raises AlreadyRunning, StateError, ConfigError.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        config: str,
        environ: Mapping[str, str],
        clock: Clock,
        up: Callable[[], None] = _nobody_waits,
    ) -> None:
        self._up = up
        self._signals = Signals({signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"})
        os.umask(0o077)
        # Before the job table is looked at: a broken or an older one is moved and changed by its one owner only.
        self._lock = StateLock(settings.state_dir)
        self._lock.acquire()
        try:
            self.engine = _checked_and_loaded(settings, config, environ, clock)
        except BaseException:
            self._lock.release()
            raise

    def run(self) -> None:
        """Start, serve, stop. Raises what the user must be told: AlreadyRunning, StateError, ConfigError."""
        all_left = True
        try:
            with none_left_is_told():
                self.engine.start()
            notify.ready(self.engine.summary())
            self._up()
            self._serve()
        finally:
            notify.stopping()
            all_left = self.engine.stop(_STOP_SECONDS)
            self._lock.release()
        _LOG.info("stopped")
        if not all_left:
            _end_now()

    def _serve(self) -> None:
        interval = notify.watchdog_interval()
        while True:
            wish = self._signals.wait(interval / 2 if interval else None)
            if wish == "stop":
                return
            if wish == "reload":
                self._reload()
            if self.engine.alive():
                notify.watchdog()
                notify.status(self.engine.summary())

    def _reload(self) -> None:
        notify.reloading()
        outcome = self.engine.reload()
        if not outcome.reloaded:
            _LOG.error("the settings stay as they were: %s", outcome.what)
        notify.ready(self.engine.summary())
