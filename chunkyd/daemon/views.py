"""Jobs, folders and times as the control socket shows them."""

from __future__ import annotations

from chunkyd.control.base import FolderView, JobDetail, JobView, name_of
from chunkyd.daemon.live import Live
from chunkyd.jobs.job import Job
from chunkyd.jobs.states import State
from chunkyd.protocol.paths import readable
from chunkyd.protocol.times import format_time
from chunkyd.settings import Folder
from chunkyd.watch.shapes import RootStatus

_SESSION_CHARACTERS = 8
_FOLDER_STATES = {"watching": "ok"}


def moment(seconds: float | None) -> str | None:
    """Wall-clock seconds as RFC 3339, to the millisecond."""
    return None if seconds is None else format_time(int(seconds * 1000) * 1_000_000)


def job_view(job: Job, live: Live) -> JobView:
    """A job as lists show it; what its upload is doing this moment counts before what its row last said."""
    path, path_bytes = name_of(job.path)
    state, next_attempt, error, attempts = _now(job, live)
    return JobView(
        id=job.id,
        folder=job.folder,
        path=path,
        path_bytes=path_bytes,
        state=state,
        reason=job.shown_reason,
        bytes_done=_done(job, live),
        bytes_total=job.bytes_total,
        attempts=attempts,
        next_attempt=next_attempt,
        error=error,
    )


def job_detail(job: Job, live: Live) -> JobDetail:
    """All that is known of a job."""
    path, path_bytes = name_of(job.path)
    state, next_attempt, error, attempts = _now(job, live)
    return JobDetail(
        id=job.id,
        folder=job.folder,
        path=path,
        path_bytes=path_bytes,
        state=state,
        reason=job.shown_reason,
        bytes_done=_done(job, live),
        bytes_total=job.bytes_total,
        attempts=attempts,
        next_attempt=next_attempt,
        error=error,
        size=job.bytes_total,
        modified=format_time(job.fingerprint.mtime_ns),
        priority=job.priority,
        created=moment(job.created) or "",
        updated=moment(job.updated) or "",
        finished=moment(job.finished),
        file_hash=job.file_hash,
        session_id=job.session_id[:_SESSION_CHARACTERS] if job.session_id else None,
        bytes_sent=job.bytes_sent,
        restarts=job.restarts,
        resumed_times=job.resumed_times,
        resumed_from=job.resumed_from,
    )


def _now(job: Job, live: Live) -> tuple[str, str | None, str | None, int]:
    upload = live.get(job.id)
    if upload is not None and upload.progress is not None and upload.progress.phase == "waiting":
        return State.WAITING, None, upload.progress.detail or job.error, job.attempts
    return job.shown_state, moment(job.next_attempt), job.error, job.attempts


def _done(job: Job, live: Live) -> int:
    upload = live.get(job.id)
    if upload is None or upload.progress is None or upload.progress.phase == "hashing":
        return job.bytes_total if job.state in (State.DONE, State.FINISHING) else job.bytes_done
    return upload.progress.bytes_done


def folder_view(folder: Folder, status: RootStatus | None, paused: bool, jobs: dict[str, int]) -> FolderView:
    """A watched folder; `status` is None while the watcher has not begun with it."""
    if status is None:
        return FolderView(name=folder.name, path=folder.path, state="scanning", paused=paused, jobs=jobs)
    state = "paused" if paused else _FOLDER_STATES.get(status.state, status.state)
    return FolderView(
        name=folder.name,
        path=folder.path,
        state=state,
        paused=paused,
        problem=status.problem or None,
        mend=status.mend or None,
        files=status.files,
        directories=status.directories,
        changing=status.changing,
        changing_paths=tuple(readable(path) for path in status.changing_paths),
        skipped=status.skipped,
        last_scan=moment(status.last_scan),
        jobs=jobs,
    )
