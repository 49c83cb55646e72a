"""The uploads that run in this process: what each is doing now, and how to stop one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from chunkyd.jobs.job import Job

if TYPE_CHECKING:  # chunkyctl shows jobs without a daemon, and is not to load the client library for that
    from chunkyd.upload.progress import Progress


class LiveUpload:
    """One claimed job in a worker. `stop` is handed to the library, which leaves within a second of its being set."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stop = threading.Event()
        self.progress: Progress | None = None
        self.resuming = job.session_id is not None  # until the server has said what it has of it
        self.recorded = 0.0  # monotonic: when progress was last written down


class Live:
    """All of them, by job number; any thread may look."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._uploads: dict[int, LiveUpload] = {}

    def __len__(self) -> int:
        return len(self._uploads)

    def all(self) -> list[LiveUpload]:
        """Those that run at this moment."""
        with self._changed:
            return list(self._uploads.values())

    def get(self, job_id: int) -> LiveUpload | None:
        """The upload of this job, if it runs."""
        return self._uploads.get(job_id)

    def add(self, upload: LiveUpload) -> None:
        """A worker takes it."""
        with self._changed:
            self._uploads[upload.job.id] = upload

    def remove(self, upload: LiveUpload) -> None:
        """The worker has left it."""
        with self._changed:
            # A job given back to the table may be claimed anew before its last worker gets here.
            if self._uploads.get(upload.job.id) is upload:
                del self._uploads[upload.job.id]
            self._changed.notify_all()

    def stop_all(self) -> None:
        """Ask every upload to leave; their sessions and progress stay."""
        for upload in self.all():
            upload.stop.set()

    def wait_until_none(self, seconds: float) -> bool:
        """Whether all had left before the time was up."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._uploads, seconds)

    def bytes_per_second(self) -> int:
        """What all of them send together, over the last seconds."""
        moving = (upload.progress for upload in self.all())
        return int(sum(each.rate for each in moving if each is not None and each.phase == "sending"))
