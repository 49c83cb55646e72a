"""A small daemon for the control socket: a few jobs in memory, every call remembered."""

from __future__ import annotations

import threading

import msgspec

from chunkyd.clock import ManualClock
from chunkyd.control.base import (
    EventBatch,
    FolderView,
    HistoryPage,
    JobDetail,
    JobPage,
    JobView,
    Notice,
    Outcome,
    Refusal,
    ReloadOutcome,
    RescanOutcome,
    Selection,
    StatusView,
    name_of,
)
from chunkyd.control.events import EventLog
from chunkyd.errors import EnvironmentFailure, UserError

FINISHED = ("done", "cancelled", "superseded")


def job(number: int, path: bytes = b"a/film.mov", state: str = "queued", **members: object) -> JobDetail:
    """A job of folder `footage`, 1000 bytes."""
    name, path_bytes = name_of(path)
    fixed = JobDetail(
        id=number,
        folder="footage",
        path=name,
        path_bytes=path_bytes,
        state=state,
        bytes_done=1000 if state == "done" else 0,
        bytes_total=1000,
        attempts=0,
        size=1000,
        priority=0,
        created="2026-01-31T12:00:00Z",
        updated="2026-01-31T12:00:00Z",
    )
    return msgspec.structs.replace(fixed, **members)


def view(detail: JobDetail) -> JobView:
    """What a list shows of it."""
    names = [field.name for field in msgspec.structs.fields(JobView)]
    return JobView(**{name: getattr(detail, name) for name in names})


SCANNED = "2026-01-31T12:00:00Z"


class FakeBackend:
    """Answers like a daemon; `release` lets a waiting rescan end."""

    def __init__(self, *jobs: JobDetail) -> None:
        self.table = {each.id: each for each in jobs}
        self.calls: list[tuple[str, object]] = []
        self.log = EventLog(ManualClock())
        self.reloaded = ReloadOutcome(reloaded=True)
        self.release = threading.Event()
        self.rescanning = threading.Event()
        self.notices: tuple[Notice, ...] = ()

    def status(self) -> StatusView:
        counts: dict[str, int] = {}
        for each in self.table.values():
            counts[each.state] = counts.get(each.state, 0) + 1
        return StatusView(
            state="degraded" if self.notices else "ok",
            problems=self.notices,
            folders=(
                FolderView(name="footage", path="/srv/footage", state="ok", files=3, last_scan=SCANNED, jobs=counts),
            ),
            jobs=counts,
            bytes_per_second=2_000_000,
            version="0.1.0",
            pid=4711,
            since="2026-01-31T11:00:00Z",
            server="https://files.example.org",
        )

    def jobs(self, states: tuple[str, ...], folder: str | None, limit: int, after: int | None) -> JobPage:
        self.calls.append(("jobs", (states, folder, limit, after)))
        if folder not in (None, "footage"):
            raise UserError(f"there is no folder {folder!r}", mend="See `chunkyctl status`")
        found = [
            view(each)
            for each in self.table.values()
            if each.id > (after or 0) and (each.state in states if states else each.state not in FINISHED)
        ]
        return JobPage(jobs=tuple(found[:limit]), next=found[limit - 1].id if len(found) > limit else None)

    def history(self, limit: int, after: int | None, folder: str | None) -> HistoryPage:
        self.calls.append(("history", (limit, after, folder)))
        found = [each for each in reversed(self.table.values()) if each.state in FINISHED]
        return HistoryPage(jobs=tuple(found[:limit]))

    def job(self, job_id: int) -> JobDetail | None:
        if job_id == 666:
            raise KeyError("a mistake")
        if job_id == 507:
            raise EnvironmentFailure("the job table cannot be read", mend="Look at the disk")
        return self.table.get(job_id)

    def pause(self, selection: Selection) -> Outcome:
        self.calls.append(("pause", selection))
        unknown = [number for number in selection.jobs if number not in self.table]
        refused = tuple(Refusal(id=number, what="there is no such job") for number in unknown)
        return Outcome(changed=len(selection.jobs or self.table) - len(unknown), refused=refused)

    def resume(self, selection: Selection) -> Outcome:
        self.calls.append(("resume", selection))
        return Outcome(changed=len(selection.jobs or self.table))

    def retry(self, jobs: tuple[int, ...]) -> Outcome:
        self.calls.append(("retry", jobs))
        return Outcome(changed=len(jobs))

    def cancel(self, jobs: tuple[int, ...]) -> Outcome:
        self.calls.append(("cancel", jobs))
        return Outcome(changed=len(jobs))

    def rescan(self, folder: str | None, *, wait: bool, timeout: float) -> RescanOutcome:
        self.calls.append(("rescan", (folder, wait, timeout)))
        self.rescanning.set()
        finished = wait and self.release.wait(timeout)
        return RescanOutcome(folders=("footage",), finished=finished)

    def reload(self) -> ReloadOutcome:
        self.calls.append(("reload", None))
        return self.reloaded

    def events(self, since: int | None, wait: float) -> EventBatch:
        return self.log.after(since, wait)
