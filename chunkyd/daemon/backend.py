"""What the control socket may ask of a daemon: `control.base.Backend` over the engine's parts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from chunkyd import __version__
from chunkyd.control.base import (
    EventBatch,
    FolderView,
    Held,
    HistoryPage,
    JobDetail,
    JobPage,
    Notice,
    Outcome,
    Refusal,
    ReloadOutcome,
    RescanOutcome,
    Selection,
    StatusView,
)
from chunkyd.daemon.views import folder_view, job_detail, job_view, moment
from chunkyd.errors import UsageError
from chunkyd.jobs.states import Reason, State
from chunkyd.jobs.wishes import Outcome as Wished
from chunkyd.protocol.documents import encodable
from chunkyd.settings import format_rate

if TYPE_CHECKING:
    from chunkyd.daemon.engine import Engine

_BROKEN = (
    "No file is lost: a new table was made, and all files were found again. Pause or cancel again what was; "
    "when you have no more use for it, remove the old table, and this goes away"
)


class DaemonBackend:
    """Answers from several threads at once; waits for nobody, but for a rescan when asked to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def status(self) -> StatusView:
        """The daemon at one glance."""
        engine = self._engine
        held = engine.queue.held()
        folders = self._folders()
        counts = engine.queue.counts()
        problems = tuple(self._problems(folders, counts))
        return StatusView(
            state=self._state(bool(problems)),
            problems=problems,
            folders=folders,
            jobs={state.value: number for state, number in counts.items()},
            bytes_per_second=engine.live.bytes_per_second(),
            version=__version__,
            pid=os.getpid(),
            since=moment(engine.started) or "",
            server=engine.connection.url,
            held=Held(reason=held.reason, what=held.error, next_probe=moment(engine.wall_of(held.next_probe)))
            if held
            else None,
            bandwidth="paused" if engine.bandwidth.paused else format_rate(engine.bandwidth.rate),
        )

    def _state(self, troubled: bool) -> str:
        held = self._engine.queue.held()
        if held is not None and held.reason is Reason.NETWORK:
            return "offline"
        if self._engine.queue.paused_by_user()[0]:
            return "paused"
        return "degraded" if troubled else "ok"

    def _folders(self) -> tuple[FolderView, ...]:
        engine = self._engine
        found = {status.folder: status for status in engine.watcher.status()}
        everything, paused = engine.queue.paused_by_user()
        return tuple(
            folder_view(
                folder,
                found.get(folder.name),
                everything or folder.name in paused,
                {state.value: n for state, n in engine.queue.counts(folder.name).items() if n},
            )
            for folder in engine.folders.all()
        )

    def _problems(self, folders: Iterable[FolderView], counts: dict[State, int]) -> Iterable[Notice]:
        held = self._engine.queue.held()
        if held is not None:
            mend = "Put a valid token into place; it is looked at by itself" if held.reason is Reason.AUTH else ""
            yield Notice(what=held.error, mend=mend or "It is tried again by itself; `chunkyctl resume` tries at once")
        for folder in folders:
            if folder.problem:
                yield Notice(what=f"{folder.name}: {folder.problem}", mend=folder.mend or "")
        if counts[State.FAILED]:
            number = counts[State.FAILED]
            what = "a job has failed" if number == 1 else f"{number} jobs have failed"
            yield Notice(what=what, mend="`chunkyctl list --state failed` says why")
        for path in self._engine.broken_tables():
            yield Notice(what=f"the job table was damaged, and is kept as {path}", mend=_BROKEN)

    def jobs(self, states: tuple[str, ...], folder: str | None, limit: int, after: int | None) -> JobPage:
        """Unfinished and failed jobs by number."""
        folder = self._name(folder)
        try:
            wanted = [State(state) for state in states]
        except ValueError as error:
            known = ", ".join(State)
            raise UsageError(
                f"there is no such state among {', '.join(states)}", mend=f"The states: {known}"
            ) from error
        found = self._engine.queue.jobs(wanted, folder, limit, after or 0)
        return JobPage(
            jobs=tuple(job_view(job, self._engine.live) for job in found),
            next=found[-1].id if len(found) == limit else None,
        )

    def history(self, limit: int, after: int | None, folder: str | None) -> HistoryPage:
        """Finished jobs, newest first."""
        folder = self._name(folder)
        found = self._engine.queue.history(limit, after, folder)
        return HistoryPage(
            jobs=tuple(job_detail(job, self._engine.live) for job in found),
            next=found[-1].finish_number if len(found) == limit else None,
        )

    def job(self, job_id: int) -> JobDetail | None:
        """One job, of any state."""
        job = self._engine.queue.job(job_id)
        return job_detail(job, self._engine.live) if job else None

    def pause(self, selection: Selection) -> Outcome:
        """Hold everything, a folder, or some jobs; what runs of them leaves within a second."""
        folder = self._name(selection.folder)
        return _outcome(self._engine.queue.pause_user(ids=selection.jobs, folder=folder))

    def resume(self, selection: Selection) -> Outcome:
        """Take back what `pause` of the same scope did."""
        folder = self._name(selection.folder)
        return _outcome(self._engine.queue.resume_user(ids=selection.jobs, folder=folder))

    def retry(self, jobs: tuple[int, ...]) -> Outcome:
        """Failed jobs go again, waiting ones at once."""
        return _outcome(self._engine.queue.retry(jobs))

    def cancel(self, jobs: tuple[int, ...]) -> Outcome:
        """Give up these jobs until their files change."""
        return _outcome(self._engine.queue.cancel(jobs))

    def rescan(self, folder: str | None, *, wait: bool, timeout: float) -> RescanOutcome:
        """Look through a folder, or all."""
        folder = self._name(folder)
        scan = self._engine.watcher.rescan(folder)
        names = (folder,) if folder is not None else tuple(sorted(self._engine.folders.names()))
        return RescanOutcome(folders=names, finished=scan.wait(timeout) if wait else False)

    def reload(self) -> ReloadOutcome:
        """Read the configuration again."""
        return self._engine.reload()

    def events(self, since: int | None, wait: float) -> EventBatch:
        """Recent events."""
        return self._engine.events.after(since, wait)

    def _name(self, written: str | None) -> str | None:
        """The folder that a request names as answers show it: a name that is not UTF-8 cannot travel as it is."""
        names = sorted(self._engine.folders.names())
        if written is None or written in names:
            return written
        for name in names:
            if encodable(name) == written:
                return name
        raise UsageError(f"there is no folder {written}", mend=f"The folders: {', '.join(names)}")


def _outcome(wished: Wished) -> Outcome:
    return Outcome(
        changed=wished.changed,
        refused=tuple(Refusal(id=each.id, what=each.what, mend=each.mend) for each in wished.refused),
    )
