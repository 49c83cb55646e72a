"""What the user wants: pause, resume, retry, cancel. Durable before the answer; wider pauses cover jobs yet to come."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.jobs.core import EVERYTHING, Core, one_of
from chunkyd.jobs.job import Job
from chunkyd.jobs.states import IDLE, RUNNING, UNFINISHED, Reason, State

_AT_ONCE = 10_000
_GO_NOW = "state = 'queued', reason = NULL, next_attempt = NULL"
_STARTS_ANEW = "attempts = 0, restarts = 0, probes = 0"
_TRIED_AGAIN = "finished IS NULL AND state IN ('waiting', 'paused') AND ifnull(reason, '') NOT IN ('root-missing')"


class Refusal(msgspec.Struct, frozen=True):
    """A job for which it was not done: `state` None where there is no such job."""

    id: int
    state: State | None
    what: str
    mend: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How many jobs it changed; those that were as wanted before are neither changed nor refused."""

    changed: int
    refused: tuple[Refusal, ...] = ()


class Wishes(Core):
    """The user's side of the queue. `ids` and `folder` select; neither means everything."""

    def pause_user(self, *, ids: Sequence[int] = (), folder: str | None = None) -> Outcome:
        """Hold everything, a folder (its jobs yet to come as well), or some jobs, until the user resumes them."""
        if ids:
            return self._each(ids, self._pause_one)
        with self._tables.transaction(durable=True):
            scope = EVERYTHING if folder is None else os.fsencode(folder)
            new = self._tables.execute("INSERT OR IGNORE INTO pauses VALUES (?)", (scope,))
            changed = self._unfinished_in(folder) if new else 0
        reached("jobs.pause.recorded")
        self.on_change()
        return Outcome(changed)

    def resume_user(self, *, ids: Sequence[int] = (), folder: str | None = None) -> Outcome:
        """Take back the user's pause of this scope and of all within it; what waits in it is tried at once.

        Jobs under a wider pause (their folder's, or the general one) are refused: that one is to be resumed.
        """
        if not ids:
            outcome = self._resume_scope(folder)
            self._holds.probe_now(self._clock.monotonic())
            self.on_change()
            return outcome
        outcome = self._each(ids, self._resume_one)
        self._holds.probe_now(self._clock.monotonic())
        return outcome

    def retry(self, ids: Sequence[int] = ()) -> Outcome:
        """Failed jobs go again, waiting and paused ones at once; none given: every failed one."""
        if ids:
            outcome = self._each(ids, self._retry_one)
            self._holds.probe_now(self._clock.monotonic())
            return outcome
        with self._tables.transaction(durable=True):
            changed = self._tables.execute(
                f"UPDATE jobs SET {_GO_NOW}, {_STARTS_ANEW}, updated = ?"  # noqa: S608  # our own words
                " WHERE finished IS NULL AND state = 'failed'",
                (self._clock.wall(),),
            )
        self.on_change()
        return Outcome(changed)

    def cancel(self, ids: Sequence[int]) -> Outcome:
        """Give these jobs up until their files change; their sessions will be ended."""
        return self._each(ids, self._cancel_one)

    def paused_by_user(self) -> tuple[bool, frozenset[str]]:
        """Whether everything is paused, and which folders are."""
        overlay = self.overlay()
        return overlay.all_paused, overlay.paused_folders

    # One job each; inside a transaction. True: changed, False: was so before, else why not.

    def _each(self, ids: Iterable[int], change: Callable[[Job], bool | Refusal]) -> Outcome:
        changed, refused = 0, []
        with self._tables.transaction(durable=True):
            for job_id in dict.fromkeys(ids):
                job = self.job(job_id) if 0 < job_id < 2**63 else None
                result = change(job) if job else Refusal(job_id, None, "there is no such job")
                if isinstance(result, Refusal):
                    refused.append(result)
                else:
                    changed += result
        reached("jobs.wish.recorded")
        self.on_change()
        return Outcome(changed, tuple(refused))

    def _pause_one(self, job: Job) -> bool | Refusal:
        if job.state not in UNFINISHED:
            return Refusal(job.id, job.state, f"the job is {job.state}")
        return self._set_paused(job, paused=True)

    def _resume_one(self, job: Job) -> bool | Refusal:
        if job.state not in UNFINISHED:
            return Refusal(job.id, job.state, f"the job is {job.state}", _mend(job.state))
        overlay = self.overlay()
        changed = self._set_paused(job, paused=False)
        changed = self._go_now("id = ?", job.id) > 0 or changed
        if overlay.all_paused:
            return Refusal(job.id, job.state, "everything is paused", "resume without naming a job")
        if job.folder in overlay.paused_folders:
            return Refusal(job.id, job.state, f"the folder {job.folder} is paused", "resume the folder")
        return changed

    def _retry_one(self, job: Job) -> bool | Refusal:
        if job.state is State.FAILED:
            self._tables.execute(
                f"UPDATE jobs SET {_GO_NOW}, {_STARTS_ANEW}, updated = ? WHERE id = ?",  # noqa: S608  # our own words
                (self._clock.wall(), job.id),
            )
            return True
        if job.state in IDLE:
            return self._go_now("id = ?", job.id) > 0
        if job.state in RUNNING:
            return False
        return Refusal(job.id, job.state, f"the job is {job.state}", "a job goes again when its file changes")

    def _cancel_one(self, job: Job) -> bool | Refusal:
        if job.state is State.CANCELLED:
            return False
        if job.arrived is not None and job.state is not State.FAILED:
            return Refusal(job.id, job.state, "the file has arrived already")
        now = self._clock.wall()
        if not self._end(job.id, State.CANCELLED, Reason.USER, now):
            return Refusal(job.id, job.state, f"the job is {job.state}")
        self._know(job, job.fingerprint, now, sent=job.arrived is not None)
        return True

    def _set_paused(self, job: Job, *, paused: bool) -> bool:
        return bool(
            self._tables.execute(
                "UPDATE jobs SET user_paused = ?, updated = ? WHERE id = ? AND user_paused != ?",
                (paused, self._clock.wall(), job.id, paused),
            )
        )

    # A whole scope; inside a transaction

    def _resume_scope(self, folder: str | None) -> Outcome:
        scope = () if folder is None else (os.fsencode(folder),)
        where = "" if folder is None else " AND folder = ?"
        with self._tables.transaction(durable=True):
            lifted = self._tables.execute(f"DELETE FROM pauses WHERE 1{where}", scope)  # noqa: S608  # our own words
            single = self._tables.execute(
                f"UPDATE jobs SET user_paused = 0 WHERE finished IS NULL AND user_paused = 1{where}",  # noqa: S608
                scope,
            )
            hurried = self._go_now("1" + where, *scope)
            overlay = self.overlay()
            changed = self._unfinished_in(folder) if lifted else single + hurried
        reached("jobs.resume.recorded")
        if overlay.all_paused and folder is not None:
            return Outcome(0, (Refusal(0, None, "everything is paused", "resume without naming a folder"),))
        return Outcome(changed)

    def _go_now(self, condition: str, *values: object) -> int:
        return self._tables.execute(
            f"UPDATE jobs SET {_GO_NOW}, attempts = 0, probes = 0, updated = ?"  # noqa: S608  # our own words
            f" WHERE {_TRIED_AGAIN} AND {condition}",
            (self._clock.wall(), *values),
        )

    def _unfinished_in(self, folder: str | None) -> int:
        scope = () if folder is None else (os.fsencode(folder),)
        row = self._tables.one(
            f"SELECT sum(number) FROM counts WHERE state IN {one_of(UNFINISHED)}"  # noqa: S608  # our own words
            + ("" if folder is None else " AND folder = ?"),
            scope,
        )
        return int(row[0] or 0) if row else 0


def _mend(state: State) -> str:
    return "`chunkyctl retry` lets it go again" if state is State.FAILED else ""
