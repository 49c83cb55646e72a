"""What an upload must remember, kept in its job's row: the library's `Memory` over the queue.

A job that lost its claim (cancelled, superseded, paused) remembers nothing more: the upload is told to leave, and the
session it has just opened is one to be ended.
"""

from __future__ import annotations

from chunkyd.errors import Interrupted
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Job
from chunkyd.jobs.queue import Queue
from chunkyd.protocol.late_hash import is_file_version
from chunkyd.upload.memory import Origin, Remembered, UploadKey


class JobMemory:
    """The memory of one claimed job. Every write is durable before it returns, as the library demands."""

    def __init__(self, queue: Queue, job: Job) -> None:
        self._queue = queue
        self._job = job

    def origin(self, fingerprint: Fingerprint) -> Origin:
        """Jobs are counted: a newer version's has a greater number."""
        return Origin(self._queue.identity, self._job.id)

    def known_hash(self, key: UploadKey, fingerprint: Fingerprint) -> str | None:
        """A hash taken of exactly this version, of this path, by this job or an earlier one."""
        return self._queue.known_hash(self._job.folder, self._job.path, fingerprint)

    def remember_hash(self, key: UploadKey, fingerprint: Fingerprint, file_hash: str) -> None:
        """For this job, and as the hash of what it sends."""
        self._queue.hashed(self._job, file_hash)

    def hash_first(self, key: UploadKey, size: int) -> bool:
        """Whether this job had a session without a hash and lost it, or a file of this size was sent before."""
        job = self._queue.job(self._job.id)
        lost = job is not None and job.session_version is not None and job.session_id is None
        return lost or self._queue.sent_size(size)

    def unsteady(self, key: UploadKey, fingerprint: Fingerprint, version: str) -> None:
        """The job's row says so already: it keeps what stood for the hash when the session is given up."""

    def recall(self, key: UploadKey) -> Remembered | None:
        """The session this job has at this server."""
        job = self._queue.job(self._job.id)
        if job is None or job.session_id is None or job.session_url != key.url:
            return None
        named = job.session_version or job.file_hash
        if named is None:
            return None
        return Remembered(job.session_id, named, job.fingerprint, job.bytes_total, job.hash_part)

    def remember(self, key: UploadKey, session: Remembered) -> Remembered:
        """This session is the job's; another it had is one to be ended."""
        named = session.file_hash
        file_hash, version = (None, named) if is_file_version(named) else (named, None)
        if not self._queue.opened(self._job, session.session_id, key.url, file_hash, version):
            raise Interrupted("the job is no longer to be sent")
        return session

    def remember_part(self, key: UploadKey, session_id: str, part: str) -> None:
        """How far the hash of what this job sends is."""
        self._queue.hashed_part(self._job, part)

    def completed(self, key: UploadKey) -> None:
        """The job is `finishing`, its session one to be ended."""
        if not self._queue.finishing(self._job, key.url):
            raise Interrupted("the job is no longer to be sent")

    def forget(self, key: UploadKey, session_id: str, *, rehash: bool = False) -> None:
        """The session is given up."""
        self._queue.forgot(self._job, session_id, rehash=rehash)

    def endings(self, url: str) -> list[tuple[str, str]]:
        """Every session at this server that is still to be ended."""
        return [(ending.session_id, ending.file_hash) for ending in self._queue.endings(url)]

    def ended(self, url: str, session_id: str) -> None:
        """The server says that it is gone."""
        self._queue.ended(url, session_id)
