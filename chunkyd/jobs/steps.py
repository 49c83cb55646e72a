"""What the worker that holds a claim records: each step is one compare-and-set on claim and state.

A step that comes too late (the job was cancelled or superseded meanwhile, or the claim is another's) changes nothing
and returns False; a step that ends the work gives the claim back in any case. No step is undone by the order in which
it and the user's wishes arrive.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.files import Fingerprint, fingerprint_columns
from chunkyd.jobs.core import one_of, text
from chunkyd.jobs.destination import TRY_AGAIN
from chunkyd.jobs.job import Change, Job, is_still_there, same_version, split
from chunkyd.jobs.offers import Offers
from chunkyd.jobs.retry import delay, probe_delay
from chunkyd.jobs.states import RUNNING, Reason, State, before

MOST_RESTARTS = 3

_FORGET_SESSION: dict[str, object] = {
    "session_id": None,
    "session_url": None,
    "bytes_done": 0,
    "bytes_most": 0,
    "hash_part": None,
}
_FINGERPRINT = ("device", "inode", "size", "mtime_ns", "ctime_ns")
_GIVE_BACK = (
    "UPDATE jobs SET claimed_by = NULL, state = iif(state IN ('hashing', 'uploading', 'finishing'), 'queued', state)"
    " WHERE id = ? AND claimed_by = ? AND claims = ?"
)
_END_LATER = "INSERT OR IGNORE INTO endings VALUES (?, ?, ?)"
_ENDED = "DELETE FROM endings WHERE url = ? AND session_id = ?"
_PROGRESS = (
    "UPDATE jobs SET state = iif(state = 'hashing', 'uploading', state), attempts = iif(?1 > bytes_most, 0, attempts),"
    " probes = iif(?1 > bytes_most, 0, probes), bytes_most = max(bytes_most, ?1), bytes_done = ?1, bytes_sent = ?2,"
    " updated = ?3 WHERE id = ?4 AND claimed_by = ?5 AND claims = ?6 AND finished IS NULL"
)

# What has arrived at the server there was before is offered to the one there is now. Decided in the statement: neither
# a reload nor a crash can come in between.
_KNOW_SENT = (
    "INSERT OR REPLACE INTO known SELECT folder, directory, name, ?, ?, ?, ?, ?, file_hash,"
    " iif(arrived_url IS (SELECT url FROM identity), 1, 2), ? FROM jobs WHERE id = ? RETURNING sent"
)
_SENT_HERE = 1
# The same for what fails because of the server there was before, or after it has arrived there.
_TRY_HERE = TRY_AGAIN + (  # noqa: S608  # our own words
    " AND id = ? AND coalesce(arrived_url, ?, (SELECT url FROM identity)) IS NOT (SELECT url FROM identity)"
)

# They pass without a word to us.
_ASKED_AGAIN = frozenset({Reason.NETWORK, Reason.SERVER, Reason.SERVER_FULL, Reason.SOURCE})


@functools.cache
def _step_statement(columns: tuple[str, ...], state: State | None) -> str:
    """Sets these columns; there are as many statements as kinds of steps, and some run for each of many small files."""
    earlier = RUNNING if state is None else before(state) & RUNNING
    changed = ", ".join(f"{column} = ?" for column in columns)
    return (
        f"UPDATE jobs SET {changed}"  # noqa: S608  # our own columns
        f" WHERE id = ? AND claimed_by = ? AND claims = ? AND state IN {one_of(earlier)}"
    )


def _named(job: Job) -> str | None:
    """What its session's requests carry."""
    return job.session_version or job.file_hash


def _version_columns(found: Fingerprint | None) -> dict[str, object]:
    return dict(zip(_FINGERPRINT, fingerprint_columns(found), strict=True)) if found is not None else {}


class Ending(msgspec.Struct, frozen=True):
    """A session that is to be ended at the server."""

    url: str
    session_id: str
    file_hash: str


class Arrival(msgspec.Struct, frozen=True):
    """A job whose file is complete at the server; `bytes_sent` over the network since the claim."""

    job: Job
    file_hash: str
    bytes_sent: int


class Steps(Offers):
    """The worker's side of the queue. All take the job as it was claimed."""

    # On the way

    def hashed(self, job: Job, file_hash: str) -> bool:
        """The hash of this version was taken."""
        with self._tables.transaction():
            stepped = self._step(job, None, {"file_hash": file_hash})
        reached("jobs.hashed")
        return stepped

    def hashed_part(self, job: Job, part: str) -> bool:
        """How far the hash is of what the job's session carries."""
        with self._tables.transaction():
            return self._step(job, None, {"hash_part": part})

    def opened(self, job: Job, session_id: str, url: str, file_hash: str | None, version: str | None = None) -> bool:
        """A session is open; durable before this returns. One that the job can no longer use is to be ended.

        `version` stands for the hash where the session began without it.
        """
        with self._tables.transaction(durable=True):
            now = self._current(job)
            other = now is not None and (now.session_id, now.session_url) != (session_id, url)
            if now is not None and other:
                self._end_later(now.session_url, now.session_id, _named(now))
            changes: dict[str, object] = {"session_id": session_id, "session_url": url, "session_version": version}
            if file_hash is not None:
                changes["file_hash"] = file_hash
            taken = self._step(job, State.UPLOADING, {**_FORGET_SESSION, **changes} if other else changes)
            if taken:  # one that was to be ended, and is given again, is in use
                self._tables.execute(_ENDED, (url, session_id))
            else:
                self._end_later(url, session_id, version or file_hash)
        reached("jobs.session.remembered")
        return taken

    def resumed(self, job: Job, stored: int) -> bool:
        """The session goes on; the server told how many bytes of it are there (0 where it has not said so yet)."""
        with self._tables.transaction():
            stepped = self._step(job, State.UPLOADING, {"resumed_from": stored} if stored else {})
        reached("jobs.resumed")
        return stepped

    def progress(self, job: Job, bytes_done: int, bytes_sent: int) -> None:
        """How far the sending is; `bytes_sent` over the network since the claim.

        More than ever before resets the attempts. Not for the progress of hashing.
        """
        values = (bytes_done, job.bytes_sent + bytes_sent, self._clock.wall(), job.id, job.claimed_by, job.claims)
        with self._tables.transaction():
            self._tables.execute(_PROGRESS, values)
        reached("jobs.progressed")

    def forgot(self, job: Job, session_id: str, *, rehash: bool = False) -> None:
        """This session is given up: to be ended, and not to be resumed; `rehash` drops the hash too."""
        with self._tables.transaction(durable=True):
            now = self._current(job)
            if now is None or now.session_id != session_id:
                return
            self._end_later(now.session_url, session_id, _named(now))
            self._step(job, None, _FORGET_SESSION | ({"file_hash": None} if rehash else {}))
        reached("jobs.session.given-up")

    def finishing(self, job: Job, url: str) -> bool:
        """The server at `url` said complete; durable before this returns, and its session is one to be ended."""
        now = self._clock.wall()
        with self._tables.transaction(durable=True):
            current = self._current(job)
            if current is None:
                return False
            self._end_later(current.session_url, current.session_id, _named(current))
            arrived: dict[str, object] = {"arrived": now, "arrived_url": url, "bytes_done": job.bytes_total}
            stepped = self._step(job, State.FINISHING, arrived | {"attempts": 0, "probes": 0})
        reached("jobs.arrival.recorded")
        return stepped

    def arrived_together(self, arrivals: Sequence[Arrival], url: str) -> list[Job]:
        """The server at `url` said complete, of many that had no session: one durable step; the jobs that took it.

        The others were ended meanwhile: their claims are given back, or what is newer would wait for them for ever.
        """
        now = self._clock.wall()
        reached("jobs.group.arriving")
        with self._tables.transaction(durable=True):
            taken = [arrival.job for arrival in arrivals if self._arrive(arrival, url, now)]
        reached("jobs.group.arrived")
        if len(taken) < len(arrivals):
            self.on_change()
        return taken

    def _arrive(self, arrival: Arrival, url: str, now: float) -> bool:
        job = arrival.job
        changes: dict[str, object] = {
            "file_hash": arrival.file_hash,
            "bytes_done": job.bytes_total,
            "bytes_sent": job.bytes_sent + arrival.bytes_sent,
            "arrived": now,
            "arrived_url": url,
            "attempts": 0,
            "probes": 0,
        }
        arrived = self._step(job, State.FINISHING, changes)
        if not arrived:
            self._give_back(job)
        return arrived

    # The ends of a claim

    def done(self, job: Job, sent: Fingerprint) -> bool:
        """It has arrived and all that was to be done after is done; this version is known as sent.

        Where it has arrived at the server there was before (`send_to`), it is queued for the one there is now.
        """
        return bool(self.done_together([(job, sent)]))

    def done_together(self, jobs: Sequence[tuple[Job, Fingerprint]]) -> int:
        """The same for many, with the version that was sent of each; how many were done."""
        now, moved = self._clock.wall(), 0
        with self._tables.transaction():
            for job, sent in jobs:
                left = self._leave(job, State.DONE, {"finished": now})
                if left and not self._know_sent(job, sent, now) and is_still_there(sent):
                    self._queue_again(job, sent, now)
                moved += left
        reached("jobs.done")
        self.on_change()
        return moved

    def release(self, job: Job) -> bool:
        """A clean stop: as if it had not been claimed, with session and progress."""
        with self._tables.transaction():
            released = self._leave(job, State.QUEUED, {})
        reached("jobs.released")
        self.on_change()
        return released

    def wait(
        self,
        job: Job,
        error: str,
        retry_after: float | None = None,
        *,
        paused_for: Reason = Reason.NETWORK,
        now_there: Fingerprint | None = None,
    ) -> bool:
        """A failure that passes: again after the backoff; once the attempts are used up paused, with rarer looks.

        `now_there`: as in `fail`.
        """
        retry = self.retry_settings
        with self._tables.transaction():
            current = self._current(job)
            attempts = (current.attempts if current else 0) + 1
            changes = {"attempts": attempts} | _version_columns(now_there)
            if attempts >= retry.attempts:
                left = self._pause(job, paused_for, error, retry_after, changes)
            else:
                seconds = delay(attempts, retry.base, retry.max, self._random(), retry_after)
                due = {"next_attempt": self._due_in(seconds), "error": text(error)}
                left = self._leave(job, State.WAITING, changes | due)
        reached("jobs.waiting")
        self.on_change()
        return left

    def pause(self, job: Job, reason: Reason, error: str, retry_after: float | None = None) -> bool:
        """Something other than the job must change: look again at growing intervals (where that passes without a word),
        or when told so by `lift` or `root_back`.
        """
        with self._tables.transaction():
            left = self._pause(job, reason, error, retry_after, {})
        reached("jobs.paused")
        self.on_change()
        return left

    def _pause(self, job: Job, reason: Reason, error: str, retry_after: float | None, more: dict[str, object]) -> bool:
        current = self._current(job)
        probes = (current.probes if current else 0) + 1
        retry = self.retry_settings
        changes = {**more, "reason": reason, "error": text(error), "probes": probes}
        if reason in _ASKED_AGAIN:
            seconds = probe_delay(probes, retry.base, retry.max, self._random(), retry_after)
            changes["next_attempt"] = self._due_in(seconds)
        return self._leave(job, State.PAUSED, changes)

    def fail(
        self, job: Job, reason: Reason, error: str, now_there: Fingerprint | None = None, *, url: str | None = None
    ) -> bool:
        """Only `retry` revives it, or a newer version of the file, or another server.

        `now_there`: the fingerprint that its version has by now: renamed and put back, it would look like a newer one.
        `url`: the server that it failed at; where there is another by now, it is queued for that one.
        """
        changes = {"reason": reason, "error": text(error)} | _version_columns(now_there)
        with self._tables.transaction():
            left = self._leave(job, State.FAILED, changes)
            self._try_here(job, url)
        reached("jobs.failed")
        self.on_change()
        return left

    def restart(self, job: Job, error: str, *, rehash: bool = False, url: str | None = None) -> bool:
        """Again from a new session, at most three times without progress; False where that was too often: failed.

        `url`: as in `fail`.
        """
        with self._tables.transaction():
            current = self._current(job)
            restarts = (current.restarts if current else 0) + 1
            changes = _FORGET_SESSION | ({"file_hash": None} if rehash else {})
            changes |= {"restarts": restarts, "error": text(error)}
            if current is not None:
                self._end_later(current.session_url, current.session_id, _named(current))
            if again := restarts <= MOST_RESTARTS:
                self._leave(job, State.QUEUED, changes)
            else:
                self._leave(job, State.FAILED, changes | {"restarts": MOST_RESTARTS, "reason": Reason.RESTARTS})
                self._try_here(job, url)
        reached("jobs.restarted")
        self.on_change()
        return again

    def gone(self, job: Job) -> bool:
        """The source is no longer there: cancelled, but done where the file has arrived before."""
        with self._tables.transaction():
            left = self._give_up(job, State.CANCELLED, Reason.SOURCE_GONE)
        reached("jobs.source-gone.found")
        self.on_change()
        return left

    def changed(
        self, job: Job, now_there: Fingerprint | None, error: str = "the file changed while it was read"
    ) -> bool:
        """The source has another version: superseded, and the newer one is queued where it is known.

        A file that is what it was (locked by another program, or just being opened) is tried again later.
        """
        if now_there is not None and same_version(now_there, job.fingerprint):
            return self.wait(job, error, paused_for=Reason.SOURCE)
        with self._tables.transaction():
            left = self._give_up(job, State.SUPERSEDED, Reason.CHANGED)
            if left and now_there is not None:
                change = Change(job.folder, job.path, now_there, job.priority)
                self._offer(change, self._clock.wall(), user_paused=job.user_paused)
        reached("jobs.superseded")
        self.on_change()
        return left

    def _give_up(self, job: Job, state: State, reason: Reason) -> bool:
        """End the job, as done where the file has arrived before."""
        now, current = self._clock.wall(), self._current(job)
        if current is not None and current.arrived is not None:
            self._know_sent(current, current.fingerprint, now)
            return self._leave(job, State.DONE, {"finished": now})
        ended = current is not None and self._end(job.id, state, reason, now)
        self._give_back(job)
        return ended

    # Inside a transaction

    def _step(self, job: Job, state: State | None, changes: dict[str, object]) -> bool:
        """The one compare-and-set: claim and state as they must be."""
        kept = {**changes, "updated": self._clock.wall()}
        if state is not None:
            kept["state"] = state
        statement = _step_statement(tuple(kept), state)
        return bool(self._tables.execute(statement, (*kept.values(), job.id, job.claimed_by, job.claims)))

    def _know_sent(self, job: Job, sent: Fingerprint, now: float) -> bool:
        """This version is known as sent; False where it went to another server than the one there is now."""
        rows = self._tables.rows(_KNOW_SENT, (*fingerprint_columns(sent), now, job.id))
        return [row[0] for row in rows] == [_SENT_HERE]

    def _try_here(self, job: Job, url: str | None) -> None:
        """What has failed is queued again, where it was at another server than the one there is now."""
        self._tables.execute(_TRY_HERE, (self._clock.wall(), job.id, url))

    def _queue_again(self, job: Job, sent: Fingerprint, now: float) -> None:
        """The scan that offers the other files may be over; a newer version that waits needs no older one before it."""
        if not any(other.id > job.id for other in self._open_jobs((os.fsencode(job.folder), *split(job.path)))):
            self._offer(Change(job.folder, job.path, sent, job.priority), now, user_paused=job.user_paused)

    def _leave(self, job: Job, state: State, changes: dict[str, object]) -> bool:
        left = self._step(job, state, {**changes, "claimed_by": None})
        if not left:
            self._give_back(job)
        return left

    def _give_back(self, job: Job) -> None:
        self._tables.execute(_GIVE_BACK, (job.id, job.claimed_by, job.claims))

    def _current(self, job: Job) -> Job | None:
        """The job's row as it is, if the claim still stands and nobody ended it."""
        found = self.job(job.id)
        if found is None or found.finished is not None or found.claims != job.claims:
            return None
        return found if found.claimed_by == job.claimed_by and found.claimed_by is not None else None

    def _end_later(self, url: str | None, session_id: str | None, file_hash: str | None) -> None:
        if url is not None and session_id is not None:
            self._tables.execute(_END_LATER, (url, session_id, file_hash or ""))

    # Sessions to be ended at the server

    def endings(self, url: str | None = None, limit: int = 1000) -> list[Ending]:
        """Sessions of superseded, cancelled and completed uploads, until the server says that they are gone."""
        rows = self._tables.rows(
            "SELECT url, session_id, file_hash FROM endings WHERE ?1 IS NULL OR url = ?1 LIMIT ?2", (url, limit)
        )
        return [Ending(*row) for row in rows]

    def ended(self, url: str, session_id: str) -> None:
        """The server says that this session is gone."""
        with self._tables.transaction():
            self._tables.execute(_ENDED, (url, session_id))
        reached("jobs.session.ended")
