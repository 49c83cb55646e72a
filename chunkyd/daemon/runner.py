"""One claimed job, from the file to `done`; every way it can end is one transition of the job table.

The order of the end: the server's `complete` is recorded and synced (`finishing`), the session is ended, then what is
to be done after an upload, then `done`. A job that was cancelled, paused or superseded meanwhile refuses the
transition, because each is a compare-and-set; what the runner then thinks of it no longer matters.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock, SinceSet
from chunkyd.daemon.after import BeingWritten, NotDone, Outcome, after_upload
from chunkyd.daemon.connection import Connection
from chunkyd.daemon.folders import Folders, published_path
from chunkyd.daemon.live import LiveUpload
from chunkyd.daemon.memory import JobMemory
from chunkyd.daemon.whereabouts import Whereabouts
from chunkyd.errors import (
    ChunkyError,
    ConfigError,
    Interrupted,
    NetworkError,
    NotChunky,
    Problem,
    SourceChanged,
    SourceError,
    SourceGone,
    SourceUnreadable,
    Unreachable,
    UserError,
)
from chunkyd.files import Fingerprint, fingerprint, is_regular, lstat_below
from chunkyd.jobs.job import Job, no_longer_there, same_version
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason
from chunkyd.jobs.steps import Arrival
from chunkyd.protocol.paths import readable
from chunkyd.settings import Uploads
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.progress import Progress
from chunkyd.upload.together import MOST_FILES, Small, Together
from chunkyd.upload.uploader import Result, Uploader
from chunkyd.watch.roots import file_system

_LOG = logging.getLogger("chunkyd.daemon")
_RECORD_SECONDS = 2.0  # how often progress is written down: a crash costs no byte by it, the server knows better


class Runner:
    """Runs claimed jobs, one call of `run` each, in the pool's threads."""

    def __init__(
        self,
        queue: Queue,
        folders: Folders,
        whereabouts: Whereabouts,
        connection: Connection,
        limiter: Limiter,
        uploads: Uploads,
        clock: Clock,
        told: Callable[[str, int, str], None],
        look: Callable[[str, bytes], None],
    ) -> None:
        self._queue = queue
        self._folders = folders
        self._whereabouts = whereabouts
        self._connection = connection
        self._limiter = limiter
        self._clock = clock
        self._since_set = SinceSet(clock)
        self._told = told  # kind, job number, words: for whoever follows events
        self._look = look  # folder, path: the watcher is to look at a file, of which it need not have heard
        self._small = Together(connection.client, limiter)
        self.uploads = uploads  # replaced by a reload; uploads under way keep what they began with

    def run(self, live: LiveUpload) -> None:
        """Carry the job as far as it goes now. Raises only where the job table cannot be written."""
        job = live.job
        url = self._connection.url  # or that of the server before: then a refusal only costs a second question
        try:
            self._finish(job, job.fingerprint if job.arrived is not None else self._upload(live))
        except Interrupted:
            self._queue.release(job)
        except ChunkyError as error:
            _LOG.info("job %d: %s", job.id, error)
            self._record(job, error, url)

    def room(self) -> tuple[int, int]:
        """How many small files go together, and of how many bytes, at the moment."""
        return MOST_FILES, self._together().most_bytes

    @staticmethod
    def is_small(job: Job) -> bool:
        """Whether the job may go together with others."""
        return Together.takes(job.bytes_total) and job.session_id is None and job.arrived is None and not job.attempts

    def run_together(self, lives: Sequence[LiveUpload]) -> None:
        """Carry small files over in as few requests as it takes; what does not come out right is run by itself."""
        together = self._together()  # one look: a reload may put another server in its place
        try:
            results = self._send_together(together, lives)
        except Interrupted:
            for live in lives:
                self._queue.release(live.job)
            return
        sent = {live.job.id: result for live, result in zip(lives, results, strict=True) if result is not None}
        arrivals = [
            Arrival(live.job, result.file_hash, result.bytes_sent)
            for live in lives
            if (result := sent.get(live.job.id)) is not None
        ]
        arrived = self._queue.arrived_together(arrivals, together.client.url) if arrivals else []
        for job in arrived:
            self._told("arrived", job.id, _arrival(job, sent[job.id]))
        self._finish_together([(job, sent[job.id].fingerprint) for job in arrived])
        for live in lives:
            if live.job.id not in sent:
                self._run_after(live)

    def _send_together(self, together: Together, lives: Sequence[LiveUpload]) -> list[Result | None]:
        files = []
        for live in lives:
            job = live.job
            source = self._folders.source(job.folder, job.path)
            if source is None:
                raise Interrupted("its folder is no longer configured")
            root = self._folders.root(job.folder)
            name, memory = published_path(job.folder, job.path), JobMemory(self._queue, job)
            files.append(Small(source, name, job.fingerprint, root, memory.origin))
        return together.send(files, lambda: all(live.stop.is_set() for live in lives))

    def _finish_together(self, arrived: Sequence[tuple[Job, Fingerprint]]) -> None:
        done = []
        for job, sent in arrived:
            try:
                if (known := self._after(job, sent)) is not None:
                    done.append((job, known))
            except ChunkyError as error:
                _LOG.info("job %d: %s", job.id, error)
                self._record(job, error, None)
        if done:
            self._queue.done_together(done)

    def _run_after(self, live: LiveUpload) -> None:
        """By itself, unless there is no sense in it now: whatever holds the queue holds all of them."""
        if live.stop.is_set() or self._queue.held() is not None:
            self._queue.release(live.job)
        else:
            self.run(live)

    def _together(self) -> Together:
        """Over the client of now: a reload may put another in its place."""
        client = self._connection.client
        if self._small.client is not client:
            self._small = Together(client, self._limiter)
        return self._small

    def _upload(self, live: LiveUpload) -> Fingerprint:
        job = live.job
        source = self._folders.source(job.folder, job.path)
        if source is None:
            raise Interrupted("its folder is no longer configured")
        try:
            result = self._uploader(live, source).upload()
        finally:
            self._write_down(live)
        self._told("arrived", job.id, _arrival(job, result))
        return result.fingerprint

    def _uploader(self, live: LiveUpload, source: bytes) -> Uploader:
        job, uploads = live.job, self.uploads
        client = self._connection.client  # one look: a reload may put another in its place
        return Uploader(
            client.url,
            source,
            name=published_path(job.folder, job.path),
            memory=JobMemory(self._queue, job),
            parallel_chunks=uploads.parallel_chunks,
            chunk_size=uploads.chunk_size,
            attempts=uploads.retry.attempts,
            base=uploads.retry.base,
            max_wait=uploads.retry.max,
            wait_when_full=False,
            verify=uploads.verify,
            limiter=self._limiter,
            progress=lambda picture: self._note(live, picture),
            client=client,
            clock=self._clock,
            since_set=self._since_set,
            stop=live.stop,
            expected=job.fingerprint,
            root=self._folders.root(job.folder),
        )

    def _note(self, live: LiveUpload, picture: Progress) -> None:
        """Keep the picture for whoever asks; now and then write it down."""
        live.progress = picture
        if picture.phase != "sending":
            return
        now = self._clock.monotonic()
        if live.resuming and picture.bytes_done:  # the server has said what it has; before, nobody knows
            live.resuming = False
            self._queue.resumed(live.job, picture.bytes_done)
        if now - live.recorded >= _RECORD_SECONDS:
            live.recorded = now
            self._write_down(live)

    def _write_down(self, live: LiveUpload) -> None:
        picture = live.progress
        if picture is not None and picture.phase != "hashing":
            self._queue.progress(live.job, picture.bytes_done, picture.bytes_sent)

    def _finish(self, job: Job, sent: Fingerprint) -> None:
        """After `finishing` is recorded: the step after the upload, then `done`."""
        if (known := self._after(job, sent)) is not None:
            self._queue.done(job, known)

    def _after(self, job: Job, sent: Fingerprint) -> Fingerprint | None:
        """The step after the upload, and what is known as sent then; None where the job waits for its folder."""
        folder, root = self._folders.get(job.folder), self._folders.root(job.folder)
        if folder is not None and root is not None:
            table = (job.id, self._queue.identity)
            outcome = after_upload(root, job.path, table, sent, folder.after_upload, lambda: self._hash(job))
            if outcome is Outcome.GONE and self._whereabouts.hold_if_elsewhere(job):
                return None  # it may stand there under its hidden name
            reached("daemon.after.done")
            if outcome is Outcome.LEFT:
                self._look(job.folder, job.path)
            if outcome is not Outcome.KEPT:
                self._told(outcome, job.id, readable(os.path.join(root, job.path)))
            if outcome in (Outcome.DELETED, Outcome.MOVED, Outcome.GONE):
                return no_longer_there(sent)
        return sent

    def _hash(self, job: Job) -> str | None:
        """What was sent; the job was claimed before that was known."""
        now = self._queue.job(job.id)
        return now.file_hash if now is not None else None

    def _record(self, job: Job, error: ChunkyError, url: str | None) -> None:
        """The one transition that belongs to this end; `url`: the server that was asked."""
        match error:
            case SourceError():
                self._record_source(job, error)
            case Unreachable() if isinstance(error.__cause__, Problem):
                self._queue.wait(job, str(error), paused_for=Reason.SERVER)  # it answers: this job's trouble
            case Unreachable() | NetworkError() | NotChunky():
                self._queue.hold(Reason.NETWORK, str(error))
                self._queue.wait(job, str(error))  # where a filter on the way refuses this file alone, others go first
            case ConfigError():
                self._queue.hold(Reason.NETWORK, str(error))
                self._queue.release(job)
            case Problem():
                self._record_problem(job, error, url)
            case UserError():  # a path too long for the protocol: only another name helps
                self._queue.fail(job, Reason.ERROR, str(error))
            case _:
                self._queue.wait(job, str(error))

    def _record_source(self, job: Job, error: SourceError) -> None:
        """The same, for what is wrong with the file itself."""
        match error:
            case SourceGone():
                self._whereabouts.end_or_hold(job)
            case SourceUnreadable() if self._is_no_file(job):
                self._whereabouts.end_or_hold(job)
            case SourceChanged():
                found = self._version_now(job)
                self._queue.changed(job, found, str(error))
                if found is None:
                    self._look(job.folder, job.path)
            case BeingWritten():
                self._queue.wait(job, str(error), paused_for=Reason.SOURCE, now_there=error.now)
            case NotDone():
                self._queue.fail(job, Reason.AFTER_UPLOAD, str(error), error.now)
            case SourceError():
                now = self._queue.job(job.id)
                if now is not None and now.arrived is not None:
                    self._queue.fail(job, Reason.AFTER_UPLOAD, str(error))
                else:  # permission, a disk's error: nothing tells us when it is over, so we look, ever more rarely
                    self._queue.wait(job, str(error), paused_for=Reason.SOURCE)

    def _record_problem(self, job: Job, found: Problem, url: str | None) -> None:
        """What the server will not do: the protocol's `action` says whose turn it is."""
        match found.action:
            case "reauthenticate":
                self._queue.hold(Reason.AUTH, str(found))
                self._queue.release(job)
            case "new-session" | "rehash":
                self._queue.restart(job, str(found), rehash=found.action == "rehash", url=url)
            case "stop" | "ignore":
                self._queue.fail(job, Reason.REFUSED, str(found), url=url)
            case _ if found.name == "storage-full":
                self._queue.pause(job, Reason.SERVER_FULL, str(found), found.retry_after)
            case _:
                self._queue.wait(job, str(found), found.retry_after, paused_for=Reason.SERVER)

    def _is_no_file(self, job: Job) -> bool:
        """Whether a folder, a link or the like stands where the file was."""
        return self._folders.get(job.folder) is not None and not self._folders.has_file(job.folder, job.path)

    def _version_now(self, job: Job) -> Fingerprint | None:
        """The version at the source's path; None where the watcher must find out.

        One that has not settled is left to the watcher, which is told of it (no event tells what is done through
        another name of the file): taken up at once, a file that is being written would be read, given up and taken up
        again as fast as the disk turns. So is one whose times prove nothing (FAT, a network): read before they could
        show a further change, it would never be read again.
        """
        folder, root = self._folders.get(job.folder), self._folders.root(job.folder)
        try:
            status = lstat_below(root, job.path) if root is not None else None
        except OSError:
            return None
        if folder is None or root is None or status is None or not is_regular(status):
            return None
        found = fingerprint(status)
        if same_version(found, job.fingerprint):
            return found
        system = file_system(os.path.join(root, job.path))
        quiet = min(system.quiet(found, self._clock.wall()), self._since_set.seconds())
        return found if system.trusted_times and quiet >= folder.settle else None


def _arrival(job: Job, result: Result) -> str:
    how = "was there already" if result.instant else f"{result.bytes_sent} bytes sent"
    if result.resumed_from:
        how += f", {result.resumed_from} were there from before"
    return f"{job.folder}/{readable(job.path)}: {how}"
