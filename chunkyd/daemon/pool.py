"""From the job table to running uploads: one dispatcher, APScheduler's pool of workers. Its only importer.

Rules:
- The job table is the truth. APScheduler holds only what runs now: one-shot jobs with unique IDs in its memory store.
- Nobody polls. The dispatcher sleeps until the queue changes, a worker ends, a job or a probe falls due.
- A worker has begun what it is handed within seconds, or it is taken back: where the system lets no thread begin,
  APScheduler says so in its log, and nobody would ever hear of that job again.
- Shutting down: no claim any more, every upload is asked to leave, `shutdown(wait=False)`, and a join with a deadline
  of our own; `shutdown(wait=True)` would deadlock with a job that adds a job.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue

from apscheduler.executors.pool import BasePoolExecutor, ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from chunkyd.clock import Clock
from chunkyd.daemon.bandwidth import Bandwidth
from chunkyd.daemon.folders import Folders
from chunkyd.daemon.live import Live, LiveUpload
from chunkyd.daemon.pace import Pace
from chunkyd.daemon.probe import Probe
from chunkyd.daemon.runner import Runner
from chunkyd.daemon.whereabouts import Whereabouts
from chunkyd.errors import ChunkyError, EnvironmentFailure
from chunkyd.jobs.job import Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason
from chunkyd.protocol.batch import MAX_CONTENT_BYTES
from chunkyd.threads import begin, begun_pool

_LOG = logging.getLogger("chunkyd.daemon")
_LONGEST_SLEEP = 15.0  # also the dispatcher's heartbeat, and how late a timetable's entry or a clock's step is noticed
_TROUBLE_SECONDS = 5.0
_SHORTEST_SLEEP = 0.05
_MOST_WORKERS = 64
_FIRST_PRUNE_SECONDS = 60.0  # soon after the start: a daemon that is restarted daily prunes too


class _Workers(BasePoolExecutor):  # type: ignore[misc] # APScheduler has no types
    """APScheduler's pool, with as many threads from the start as there are workers; more when a reload wants more."""

    def __init__(self, workers: int) -> None:
        super().__init__(begun_pool(workers, "upload", _MOST_WORKERS))


class Pool:
    """Claims jobs and runs them, `workers` at once."""

    def __init__(
        self,
        queue: Queue,
        folders: Folders,
        runner: Runner,
        probe: Probe,
        whereabouts: Whereabouts,
        bandwidth: Bandwidth,
        live: Live,
        clock: Clock,
        run_id: str,
        workers: int,
    ) -> None:
        self._queue = queue
        self._folders = folders
        self._runner = runner
        self._probe = probe
        self._whereabouts = whereabouts
        self._bandwidth = bandwidth
        self._live = live
        self._clock = clock
        self._run_id = run_id
        self.workers = workers  # replaced by a reload
        self._numbers = itertools.count()
        self._busy: set[str] = set()
        self._at_work: set[int] = set()  # the first job of each worker
        self._handed: dict[int, tuple[float, list[LiveUpload]]] = {}  # not begun yet, and until when they should have
        self._none_begun_since: float | None = None
        self._unreleased: SimpleQueue[tuple[Job, str]] = SimpleQueue()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,  # the local one need not have a name, and then it would not begin
            executors={"default": ThreadPoolExecutor(2), "uploads": _Workers(workers)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._dispatcher = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._beat = clock.monotonic()
        self._endings = Pace()

    def start(self) -> None:
        """Begin to claim."""
        self._scheduler.start()
        self._scheduler.add_job(
            self._prune,
            "interval",
            days=1,
            id="prune",
            next_run_time=datetime.now(UTC) + timedelta(seconds=_FIRST_PRUNE_SECONDS),
        )
        self._dispatcher.start()

    def wake(self) -> None:
        """Something changed: look again. Never blocks; any number of calls make one look."""
        self._changed.set()

    def begin_stop(self) -> None:
        """Claim nothing more and ask all uploads to leave."""
        self._stopping.set()
        self._changed.set()
        self._live.stop_all()

    def stop(self, seconds: float) -> bool:
        """The same, and wait for them; whether all had left in time."""
        deadline = self._clock.monotonic() + seconds
        self.begin_stop()
        if self._dispatcher.is_alive():
            self._dispatcher.join(seconds)
        self._live.stop_all()  # what the dispatcher had just claimed
        left = self._live.wait_until_none(max(0.0, deadline - self._clock.monotonic()))
        if self._scheduler.running:
            with contextlib.suppress(RuntimeError):  # the system has not let its thread begin
                self._scheduler.shutdown(wait=False)
        return left

    def alive(self) -> bool:
        """Whether the dispatcher still takes its turns, and workers what they are handed: for a watchdog."""
        since = min(self._beat, self._none_begun_since or self._beat)
        return self._dispatcher.is_alive() and self._clock.monotonic() - since <= 4 * _LONGEST_SLEEP

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat = self._clock.monotonic()
            self._changed.clear()  # before looking: what changes while we look makes us look again
            try:
                self._turn()
                pause = min(self._pause(), max(_SHORTEST_SLEEP, self._whereabouts.wait()))
            except EnvironmentFailure as error:  # the job table is full, locked, broken: nothing can be begun now
                _LOG.error("%s", error)
                pause = _TROUBLE_SECONDS
            except Exception:  # noqa: BLE001 - without a dispatcher nothing is ever sent again, and nobody would know
                _LOG.exception("looking for work: unexpected")
                pause = _TROUBLE_SECONDS
            self._changed.wait(pause)

    def _turn(self) -> None:
        self._bandwidth.apply()
        self._take_back()
        self._release_the_unreleased()
        self._stop_what_lost_its_claim()
        if self._whereabouts.due():
            self._begin_once("whereabouts", self._whereabouts.look)
        hold = self._queue.held()
        if hold is not None:
            if hold.next_probe <= self._clock.monotonic() or self._has_new_token(hold.reason):
                self._begin_once("probe", self._ask, hold.reason)
            return
        # An upload ends its own session, and what it finds left behind; only an idle daemon has to see to it.
        if not len(self._live) and self._endings.due(self._clock.monotonic()) and self._has_endings():
            self._begin_once("endings", self._end_sessions)
        if not self._bandwidth.paused:
            self._claim()

    def _claim(self) -> None:
        while len(self._at_work) < self.workers and not self._stopping.is_set():
            job = self._queue.claim(self._run_id, self._folders.names())
            if job is None:
                return
            uploads = [LiveUpload(each) for each in (job, *self._companions(job))]
            for upload in uploads:
                self._live.add(upload)
            self._at_work.add(job.id)
            number = next(self._numbers)
            self._handed[number] = (self._clock.monotonic() + _LONGEST_SLEEP, uploads)
            self._scheduler.add_job(self._work, args=(number, uploads), id=f"job-{number}", executor="uploads")

    def _companions(self, job: Job) -> list[Job]:
        """Small files go together."""
        if not self._runner.is_small(job):
            return []
        files, total = self._runner.room()
        # One at least: the room grows with what goes together, and files of half of it would for ever go alone.
        rest = max(1, total - job.bytes_total)
        return self._queue.claim_with(job, jobs=files - 1, size=MAX_CONTENT_BYTES, total=rest)

    def _take_back(self) -> None:
        """What no worker has begun: it belongs to whoever takes it out of the table of what is handed over."""
        now = self._clock.monotonic()
        for number, (until, uploads) in list(self._handed.items()):
            if until >= now or self._handed.pop(number, None) is None:
                continue
            self._none_begun_since = self._none_begun_since or now
            _LOG.error("job %d: no worker began it; is there memory, and may threads begin?", uploads[0].job.id)
            self._leave(uploads, "no worker of chunkyd began it")

    def _work(self, number: int, uploads: list[LiveUpload]) -> None:
        if self._handed.pop(number, None) is None:
            return  # too late: taken back
        self._none_begun_since = None
        first = uploads[0]
        trouble = ""
        try:
            if len(uploads) > 1:
                self._runner.run_together(uploads)
            else:
                self._runner.run(first)
        except EnvironmentFailure as error:  # how it ended could not be written
            _LOG.error("job %d: %s", first.job.id, error)
            trouble = "it ended in a way that could not be written down; the log says more"
        except Exception:  # noqa: BLE001 - a mistake of ours must not take the worker along, nor the jobs with it
            _LOG.exception("job %d: unexpected", first.job.id)
            trouble = "it ended in an unexpected way; the log says more"
        finally:
            self._leave(uploads, trouble)

    def _leave(self, uploads: list[LiveUpload], trouble: str) -> None:
        """A worker is free. In trouble its jobs are claimed still, and the dispatcher releases them."""
        for upload in uploads:
            if trouble:
                self._unreleased.put((upload.job, trouble))
            self._live.remove(upload)
        self._at_work.discard(uploads[0].job.id)
        self.wake()

    def _release_the_unreleased(self) -> None:
        while not self._unreleased.empty():
            job, trouble = self._unreleased.get()
            try:
                self._queue.wait(job, trouble)
            except EnvironmentFailure:
                self._unreleased.put((job, trouble))
                raise

    def _stop_what_lost_its_claim(self) -> None:
        """Cancelled, paused or superseded meanwhile: the table has said so, now the upload hears it."""
        if not len(self._live):
            return
        unwanted = self._queue.unwanted()
        for upload in self._live.all():
            if upload.job.id in unwanted or self._bandwidth.paused:
                upload.stop.set()

    def _has_endings(self) -> bool:
        return bool(self._queue.endings(self._probe.url, limit=1))

    def _end_sessions(self) -> None:
        self._endings.tried(self._probe.end_sessions(), self._clock.monotonic())

    def _has_new_token(self, reason: Reason) -> bool:
        """A refused token is asked about ever more rarely; one that was put in its place is tried at the next look."""
        return reason is Reason.AUTH and "probe" not in self._busy and self._probe.token_is_new()

    def _prune(self) -> None:
        """Once a day, old history goes."""
        try:
            dropped = self._queue.prune()
            self._queue.forget_endings(self._probe.url)
        except EnvironmentFailure as error:
            _LOG.error("old history could not be dropped: %s", error)
            return
        if dropped:
            _LOG.info("%d old jobs are dropped from the history", dropped)

    def _ask(self, reason: Reason) -> None:
        self._probe.ask(reason)

    def _begin_once(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Never twice at once, and in a thread of its own, since the dispatcher does no network I/O.

        No stop waits for that thread: a request without an answer hangs for half a minute, and can be made again.
        """
        if name in self._busy:
            return
        self._busy.add(name)

        def run() -> None:
            try:
                work(*arguments)
            except ChunkyError as error:
                _LOG.error("%s: %s", name, error)
            finally:
                self._busy.discard(name)
                self.wake()

        try:
            begin(run, name)
        except EnvironmentFailure:
            self._busy.discard(name)
            raise

    def _pause(self) -> float:
        """How long nothing falls due."""
        hold = self._queue.held()
        if "probe" in self._busy:
            return _LONGEST_SLEEP  # its end wakes us
        if hold is not None:
            wait = hold.next_probe - self._clock.monotonic()
        elif self._bandwidth.paused or len(self._at_work) >= self.workers:
            return _LONGEST_SLEEP  # nothing can be begun, whatever is due; a worker's end wakes us
        else:
            due = self._queue.next_due()
            wait = _LONGEST_SLEEP if due is None else due - self._clock.wall()
            if not self._endings.due(self._clock.monotonic()) and self._has_endings():
                wait = min(wait, self._endings.next - self._clock.monotonic())
        return min(_LONGEST_SLEEP, max(_SHORTEST_SLEEP, wait))
