"""The user's pause, resume, retry and cancel."""

from __future__ import annotations

from pathlib import Path

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from tests.jobs.shared import HASH, RUN, URL, arrive, change, claim, now, open_queue


def test_a_pause_of_everything_survives_a_restart_and_covers_new_jobs(tmp_path: Path, clock: ManualClock) -> None:
    """Nothing is claimed until the user resumes: not after a restart, not a job that came later."""
    queue = open_queue(tmp_path, clock)
    queue.offer([change(b"a")])
    assert queue.pause_user().changed == 1
    queue.close()
    queue = open_queue(tmp_path, clock)
    queue.recover("next")
    queue.offer([change(b"b", folder="photos")])
    assert queue.claim("next", ["films", "photos"]) is None
    assert [(job.shown_state, job.shown_reason) for job in queue.jobs()] == [(State.PAUSED, Reason.USER)] * 2
    assert queue.counts()[State.PAUSED] == 2
    assert queue.resume_user().changed == 2
    assert claim(queue, "films", "photos").path == b"a"
    queue.close()


def test_a_paused_folder_holds_its_jobs_only(queue: Queue) -> None:
    """A folder's pause covers its jobs, new ones included, and no other's."""
    queue.offer([change(b"a")])
    queue.pause_user(folder="films")
    queue.offer([change(b"b"), change(b"c", folder="photos")])
    assert claim(queue, "films", "photos").path == b"c"
    assert queue.claim(RUN, ["films", "photos"]) is None
    assert queue.paused_by_user() == (False, frozenset({"films"}))
    queue.resume_user(folder="films")
    assert claim(queue).path == b"a"


def test_a_paused_job_lets_others_pass(queue: Queue) -> None:
    """One job is paused and resumed; asked twice, nothing changes and nothing is refused."""
    queue.offer([change(b"a"), change(b"b")])
    assert queue.pause_user(ids=[1]).changed == 1
    assert queue.pause_user(ids=[1, 1]).changed == 0
    assert claim(queue).path == b"b"
    assert queue.claim(RUN, ["films"]) is None
    outcome = queue.resume_user(ids=[1])
    assert (outcome.changed, outcome.refused) == (1, ())
    assert claim(queue).path == b"a"


def test_a_paused_running_job_is_to_leave_and_goes_on_later(queue: Queue) -> None:
    """Pausing tells the worker to leave; resumed, the job goes on with its session."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.pause_user()
    assert queue.unwanted() == {job.id}
    assert now(queue, job).shown_state is State.PAUSED
    queue.release(job)
    assert queue.claim(RUN, ["films"]) is None
    queue.resume_user()
    assert claim(queue).session_id == "s"
    assert queue.unwanted() == set()


def test_resuming_everything_takes_back_narrower_pauses(queue: Queue) -> None:
    """Without arguments `resume` means everything: jobs and folders paused one by one too."""
    queue.offer([change(b"a"), change(b"b", folder="photos")])
    queue.pause_user(ids=[1])
    queue.pause_user(folder="photos")
    assert queue.resume_user().changed == 2
    assert {claim(queue, "films", "photos").path for _ in range(2)} == {b"a", b"b"}


def test_a_job_below_a_wider_pause_is_refused_with_the_way_out(queue: Queue) -> None:
    """Resuming one job while everything or its folder is paused says what to resume instead."""
    queue.offer([change(b"a")])
    queue.pause_user()
    assert "everything" in queue.resume_user(ids=[1]).refused[0].what
    assert "everything" in queue.resume_user(folder="films").refused[0].what
    queue.resume_user()
    queue.pause_user(folder="films")
    assert "films" in queue.resume_user(ids=[1]).refused[0].what


def test_resume_tries_what_waits_at_once(queue: Queue, clock: ManualClock) -> None:
    """Jobs in a backoff or paused for another reason are tried at once, and so is the probe."""
    queue.offer([change(b"a"), change(b"b")])
    queue.wait(claim(queue), "reset", retry_after=1000)
    queue.pause(claim(queue), Reason.SERVER_FULL, "full", retry_after=1000)
    queue.hold(Reason.NETWORK, "no route")
    assert queue.resume_user().changed == 2
    held = queue.held()
    assert held is not None
    assert held.next_probe == clock.monotonic()
    queue.lift(Reason.NETWORK)
    assert {claim(queue).path, claim(queue).path} == {b"a", b"b"}


def test_retry_revives_failed_jobs(queue: Queue) -> None:
    """Every failed job without arguments, else those named; waiting ones at once; what ended is refused."""
    queue.offer([change(b"a"), change(b"b"), change(b"c"), change(b"d")])
    queue.fail(claim(queue), Reason.SOURCE, "no")
    queue.fail(claim(queue), Reason.SOURCE, "no")
    queue.wait(claim(queue), "reset", retry_after=1000)
    arrive(queue, claim(queue))
    outcome = queue.retry([1, 3, 4, 99, -1, 2**70])
    assert outcome.changed == 2
    assert [(refusal.id, refusal.state) for refusal in outcome.refused] == [
        (4, State.DONE),
        (99, None),
        (-1, None),
        (2**70, None),
    ]
    assert queue.retry().changed == 1
    assert queue.retry().changed == 0
    assert [claim(queue).id for _ in range(3)] == [1, 2, 3]


def test_cancel_gives_up_and_ends_the_session(queue: Queue) -> None:
    """Queued, running and failed jobs are cancelled, their sessions to be ended; twice changes nothing."""
    queue.offer([change(b"a"), change(b"b"), change(b"c")])
    failed = claim(queue)
    queue.fail(failed, Reason.SOURCE, "no")
    running = claim(queue)
    queue.opened(running, "s", URL, HASH)
    assert queue.cancel([1, 2, 3]).changed == 3
    assert queue.cancel([1, 2, 3]).changed == 0
    assert queue.unwanted() == {running.id}
    assert [ending.session_id for ending in queue.endings()] == ["s"]
    assert {job.reason for job in queue.history()} == {Reason.USER}
    assert queue.claim(RUN, ["films"]) is None


def test_what_has_arrived_is_not_cancelled(queue: Queue) -> None:
    """A finishing or done job is refused; one that arrived but failed afterwards may be put away."""
    queue.offer([change(b"a"), change(b"b")])
    job = claim(queue)
    queue.finishing(job, URL)
    assert "arrived" in queue.cancel([job.id]).refused[0].what
    queue.done(job, job.fingerprint)
    assert queue.cancel([job.id]).refused[0].state is State.DONE
    second = claim(queue)
    queue.finishing(second, URL)
    queue.fail(second, Reason.AFTER_UPLOAD, "cannot be moved")
    assert queue.cancel([second.id]).changed == 1


def test_a_pause_of_what_has_ended_is_refused(queue: Queue) -> None:
    """Failed and ended jobs cannot be paused or resumed, and the refusal says in which state they are."""
    queue.offer([change(b"a"), change(b"b")])
    queue.fail(claim(queue), Reason.SOURCE, "no")
    arrive(queue, claim(queue))
    assert [refusal.state for refusal in queue.pause_user(ids=[1, 2]).refused] == [State.FAILED, State.DONE]
    refusals = queue.resume_user(ids=[1, 2]).refused
    assert "retry" in refusals[0].mend
