"""Everything of one daemon but its process: built in one place, started and stopped in one order.

Start: the job table is opened and what a crash left is taken back; the control socket answers; the pool claims; the
watcher scans beside running uploads. Stop: the other way round.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future

from chunkyd.clock import Clock
from chunkyd.control.base import ReloadOutcome
from chunkyd.control.events import EventLog
from chunkyd.control.server import ControlServer
from chunkyd.daemon.backend import DaemonBackend
from chunkyd.daemon.bandwidth import Bandwidth
from chunkyd.daemon.connection import Connection
from chunkyd.daemon.folders import Folders
from chunkyd.daemon.homes import Homes
from chunkyd.daemon.intake import Intake
from chunkyd.daemon.live import Live
from chunkyd.daemon.pool import Pool
from chunkyd.daemon.probe import Probe
from chunkyd.daemon.runner import Runner
from chunkyd.daemon.views import job_view
from chunkyd.daemon.whereabouts import Whereabouts
from chunkyd.errors import ChunkyError
from chunkyd.jobs.checking import JOB_TABLE
from chunkyd.jobs.opening import broken_tables, open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import UNFINISHED, Reason, State
from chunkyd.settings import DaemonSettings, changed_needing_restart, load_daemon
from chunkyd.upload.limiter import Limiter
from chunkyd.watch.watcher import Watcher, one_pass

_LOG = logging.getLogger("chunkyd.daemon")
_WATCH_STOP_SECONDS = 3.0


class Engine:
    """One daemon's parts, wired. `start` serves; `start_sending` and `scan_once` are its two halves for one pass."""

    def __init__(
        self,
        settings: DaemonSettings,
        config: str,
        environ: Mapping[str, str],
        clock: Clock,
        check: Future[bool] | None = None,  # of the job table, where it was begun before
    ) -> None:
        self._settings = settings
        self._config = config
        self._environ = environ
        self._clock = clock
        self._reloading = threading.Lock()
        self.run_id = uuid.uuid4().hex
        self._table = os.path.join(settings.state_dir, JOB_TABLE)
        tables = open_tables(self._table, clock, check=check).tables
        self.queue = Queue(tables, clock, settings.uploads.retry)
        self.folders = Folders(settings.folders)
        self.live = Live()
        self.events = EventLog(clock)
        self._limiter = Limiter(clock=clock)
        self.bandwidth = Bandwidth(settings.uploads.bandwidth, self._limiter, clock)
        self.connection = Connection(settings.server, environ, clock, self._send_to)
        self._probe = Probe(self.queue, self.connection)
        homes = Homes(settings.state_dir, self.queue.last_number)
        whereabouts = Whereabouts(self.queue, self.folders, homes, clock)
        self._runner = Runner(
            self.queue,
            self.folders,
            whereabouts,
            self.connection,
            self._limiter,
            settings.uploads,
            clock,
            self._told,
            self._look,
        )
        self.pool = Pool(
            self.queue,
            self.folders,
            self._runner,
            self._probe,
            whereabouts,
            self.bandwidth,
            self.live,
            clock,
            self.run_id,
            settings.uploads.workers,
        )
        self.queue.on_change = self.pool.wake
        self._intake = Intake(self.queue, self.folders, homes, whereabouts)
        self.watcher = Watcher(self.folders.watched(), self._intake, self._intake, clock)
        self.backend = DaemonBackend(self)
        self._control = ControlServer(settings.control.socket, settings.control.group, self.backend, clock)
        self.started = clock.wall()

    def start(self) -> None:
        """Recover, answer, send, watch."""
        recovered = self._recover()
        self._control.start()
        self.pool.start()
        self.watcher.start()
        _LOG.info("watching %s; jobs taken back: %d", ", ".join(sorted(self.folders.names())), recovered)

    def start_sending(self) -> None:
        """Recover and send, without socket and watcher."""
        self._recover()
        self.pool.start()

    def _recover(self) -> int:
        self._send_to(self.connection.url)  # before the first claim
        taken = self.queue.recover(self.run_id)
        if taken.jobs:
            _LOG.info("jobs that go on: %d, in the middle: %d", taken.jobs, taken.resumable)
        for folder in self.folders.all():
            if self.queue.has_another_priority(folder.name, folder.priority):
                self.queue.set_priority(folder.name, folder.priority)
        return taken.jobs

    def _send_to(self, url: str) -> None:
        """Record whom all is sent to, before anything is; the scan that follows offers what another server was sent."""
        before = self.queue.send_to(url)
        if before is not None:
            _LOG.warning(
                "everything goes to %s from now on, and went to %s before: all files in the watched folders are offered"
                " again; what is there already costs no byte",
                url,
                before,
            )

    def scan_once(self, stop: threading.Event) -> int:
        """One pass over all folders; how many files did not settle."""
        found = one_pass(self.folders.watched(), self._intake, self._intake, self._clock, stop)
        return sum(status.changing for status in found)

    def stop(self, seconds: float) -> bool:
        """Everything, in reverse; what is under way is left as it is in the table, and taken up at the next start.

        Whether all uploads had left in time.
        """
        self.pool.begin_stop()  # uploads leave while the watcher ends
        self.watcher.stop(_WATCH_STOP_SECONDS)
        all_left = self.pool.stop(seconds - _WATCH_STOP_SECONDS)
        if not all_left:
            _LOG.warning("an upload did not leave in time; its job goes on at the next start")
        self.events.close()
        self._control.stop()
        self.queue.close()
        return all_left

    def reload(self) -> ReloadOutcome:
        """Read the configuration again; a bad one changes nothing."""
        with self._reloading:
            try:
                settings = load_daemon(self._config, self._environ)
                self._reconnect(settings)
                self._reprioritise(settings)
                self.folders.replace(settings.folders)
                self.watcher.reconfigure(self.folders.watched())
            except ChunkyError as error:
                return ReloadOutcome(reloaded=False, what=error.what, mend=error.mend)
            waiting = changed_needing_restart(self._settings, settings)
            self._take_over(settings)
            return ReloadOutcome(reloaded=True, need_restart=tuple(waiting))

    def _reconnect(self, settings: DaemonSettings) -> None:
        """At another server all is offered anew, and what is under way begins anew: the old one gets no more of it."""
        before = self.connection.url
        self.connection.refresh(settings.server)
        if self.connection.url != before:
            self.live.stop_all()  # claimed again, they go to the new one
            self.watcher.rescan()

    def _reprioritise(self, settings: DaemonSettings) -> None:
        for folder in settings.folders:
            before = self.folders.get(folder.name)
            if before is None or before.priority != folder.priority:
                self.queue.set_priority(folder.name, folder.priority)

    def _take_over(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self.queue.retry_settings = settings.uploads.retry
        self._runner.uploads = settings.uploads
        self.pool.workers = settings.uploads.workers
        self.bandwidth.replace(settings.uploads.bandwidth)
        for reason in (Reason.AUTH, Reason.NETWORK):  # it may be mended: a new token, another URL
            self.queue.lift(reason)
        self.pool.wake()
        self._told("reloaded", None, "the configuration was read again")

    def broken_tables(self) -> list[str]:
        """Job tables that were damaged, moved aside, and not looked at since."""
        return broken_tables(self._table)

    def counts(self) -> dict[State, int]:
        """Jobs of the configured folders by shown state: those of others stay where they are."""
        each = [self.queue.counts(name) for name in self.folders.names()]
        return {state: sum(counts.get(state, 0) for counts in each) for state in State}

    def wall_of(self, monotonic: float) -> float:
        """A monotonic moment as wall-clock time, for people."""
        return self._clock.wall() + monotonic - self._clock.monotonic()

    def alive(self) -> bool:
        """Whether the loops that do the work still turn: what a watchdog may be told."""
        return self.pool.alive() and self.watcher.alive()

    def summary(self) -> str:
        """One line for `systemctl status`."""
        counts = self.queue.counts()
        parts = [f"{number} {state}" for state, number in counts.items() if number and state in UNFINISHED]
        return ", ".join(parts) or "nothing to do"

    def _look(self, folder: str, path: bytes) -> None:
        self.watcher.look(folder, path)  # which is made after who asks for it

    def _told(self, kind: str, job_id: int | None, text: str) -> None:
        _LOG.info("%s%s", f"job {job_id} {kind}: " if job_id is not None else "", text)
        job = self.queue.job(job_id) if job_id is not None else None
        self.events.publish(kind, job=job_view(job, self.live) if job else None, text=text)
