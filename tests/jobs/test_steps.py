"""What a worker records, and what becomes of the job."""

from __future__ import annotations

import pytest

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from chunkyd.jobs.steps import Arrival
from tests.jobs.shared import HASH, RUN, URL, arrive, change, claim, now, version


def started(queue: Queue, path: bytes = b"a") -> int:
    queue.offer([change(path)])
    return queue.jobs()[-1].id


def test_the_main_line(queue: Queue) -> None:
    """queued, hashing, uploading, finishing, done; the session is to be ended from `finishing` on."""
    started(queue)
    job = claim(queue)
    assert job.state is State.HASHING
    queue.hashed(job, HASH)
    queue.opened(job, "s", URL, HASH)
    assert now(queue, job).state is State.UPLOADING
    assert queue.endings() == []
    assert queue.finishing(job, URL)
    assert now(queue, job).state is State.FINISHING
    assert [(ending.url, ending.session_id, ending.file_hash) for ending in queue.endings(URL)] == [(URL, "s", HASH)]
    assert queue.done(job, job.fingerprint)
    queue.ended(URL, "s")
    assert queue.endings() == []
    found = now(queue, job)
    assert (found.state, found.bytes_done, found.claimed_by) == (State.DONE, 1000, None)


def test_a_clean_stop_costs_nothing(queue: Queue) -> None:
    """A released job is queued again with session and progress, and no attempt is charged."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.progress(job, 300, 350)
    assert queue.release(job)
    again = claim(queue)
    assert (again.session_id, again.resumed_from, again.bytes_sent, again.attempts) == ("s", 300, 350, 0)
    queue.resumed(again, 256)
    queue.progress(again, 400, 50)
    found = now(queue, again)
    assert (found.state, found.resumed_from, found.bytes_sent) == (State.UPLOADING, 256, 400)


def test_attempts_end_in_a_pause_that_ends_by_itself(queue: Queue, clock: ManualClock) -> None:
    """Failures in a row wait longer and longer, then pause for the network, and are looked at ever more rarely."""
    started(queue)
    for attempt, wait in ((1, 0.5), (2, 1.0)):
        job = claim(queue)
        queue.wait(job, "reset by peer")
        found = now(queue, job)
        assert (found.state, found.attempts, found.next_attempt) == (State.WAITING, attempt, clock.wall() + wait)
        clock.advance(wait)
    waits = []
    for _ in range(9):
        job = claim(queue)
        queue.wait(job, "reset by peer")
        found = now(queue, job)
        assert (found.state, found.reason) == (State.PAUSED, Reason.NETWORK)
        assert found.next_attempt is not None
        waits.append(found.next_attempt - clock.wall())
        clock.advance(waits[-1])
    assert waits == [0.875, 1.75, 3.5, 7.0, 14.0, 28.0, 52.5, 52.5, 52.5]


def test_progress_resets_the_attempts(queue: Queue, clock: ManualClock) -> None:
    """More bytes than ever before start the count anew; the same bytes sent again do not."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.progress(job, 100, 100)
    queue.wait(job, "reset")
    clock.advance(100)
    job = claim(queue)
    queue.progress(job, 100, 100)
    assert now(queue, job).attempts == 1
    queue.progress(job, 101, 200)
    assert now(queue, job).attempts == 0


def test_retry_after_is_kept(queue: Queue, clock: ManualClock) -> None:
    """The server's Retry-After is waited for, by a waiting job and by one whose server is full."""
    started(queue)
    job = claim(queue)
    queue.wait(job, "busy", retry_after=30)
    assert now(queue, job).next_attempt == clock.wall() + 30
    clock.advance(30)
    job = claim(queue)
    queue.pause(job, Reason.SERVER_FULL, "full", retry_after=90)
    found = now(queue, job)
    assert (found.shown_state, found.shown_reason) == (State.PAUSED, Reason.SERVER_FULL)
    assert found.next_attempt == clock.wall() + 90


def test_a_full_server_holds_its_job_only(queue: Queue) -> None:
    """Another file may still fit."""
    queue.offer([change(b"big"), change(b"small")])
    queue.pause(claim(queue), Reason.SERVER_FULL, "full")
    assert claim(queue).path == b"small"


def test_a_lost_session_is_replaced_three_times(queue: Queue) -> None:
    """Each lost session is to be ended and replaced; after three the job fails, and `retry` starts the count anew."""
    started(queue)
    for number in range(4):
        job = claim(queue)
        queue.opened(job, f"s{number}", URL, HASH)
        queue.progress(job, 500, 500)
        assert queue.restart(job, "expired") is (number < 3)
    found = now(queue, job)
    assert (found.state, found.reason, found.restarts) == (State.FAILED, Reason.RESTARTS, 3)
    assert {ending.session_id for ending in queue.endings()} == {"s0", "s1", "s2", "s3"}
    queue.retry()
    assert claim(queue).restarts == 0


def test_a_restart_forgets_the_session_and_the_hash_only_if_told(queue: Queue) -> None:
    """An expired session leaves the hash; a mismatch of the digest takes it too."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.restart(job, "expired")
    job = claim(queue)
    assert (job.session_id, job.file_hash, job.resumed_times) == (None, HASH, 0)
    queue.restart(job, "mismatch", rehash=True)
    assert claim(queue).file_hash is None


def test_a_second_session_replaces_the_first(queue: Queue) -> None:
    """Opening another session in one run leaves the first one to be ended, and its progress forgotten."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "one", URL, HASH)
    queue.progress(job, 100, 100)
    assert queue.opened(job, "two", URL, HASH)
    found = now(queue, job)
    assert (found.session_id, found.bytes_done, found.bytes_sent) == ("two", 0, 100)
    assert [ending.session_id for ending in queue.endings()] == ["one"]


def test_opening_the_same_session_again_changes_nothing(queue: Queue) -> None:
    """A session that is remembered twice is not one to be ended."""
    started(queue)
    job = claim(queue)
    assert queue.opened(job, "one", URL, HASH)
    queue.progress(job, 100, 100)
    assert queue.opened(job, "one", URL, HASH)
    assert now(queue, job).bytes_done == 100
    assert queue.endings() == []


def test_a_session_that_is_given_again_is_not_to_be_ended(queue: Queue) -> None:
    """One that was to be ended, and that the server gives for the same initiate again, is in use: nobody ends it."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.forgot(job, "s")
    assert queue.opened(job, "s", URL, HASH)
    assert queue.endings() == []


def test_a_forgotten_session_is_to_be_ended(queue: Queue) -> None:
    """A session that is given up leaves the job and joins the endings; another one's number changes nothing."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.forgot(job, "another")
    assert now(queue, job).session_id == "s"
    queue.forgot(job, "s")
    assert now(queue, job).session_id is None
    assert [ending.session_id for ending in queue.endings()] == ["s"]


def test_a_session_opened_too_late_is_to_be_ended(queue: Queue) -> None:
    """A session opened for a job that was cancelled meanwhile does not stay open at the server."""
    job_id = started(queue)
    job = claim(queue)
    queue.cancel([job_id])
    assert not queue.opened(job, "late", URL, HASH)
    assert not queue.finishing(job, URL)
    queue.release(job)
    assert now(queue, job).state is State.CANCELLED
    assert [ending.session_id for ending in queue.endings()] == ["late"]


def test_a_vanished_source_cancels_but_not_what_arrived(queue: Queue) -> None:
    """Gone before arrival is cancelled; gone after it is done, and known as sent."""
    queue.offer([change(b"a"), change(b"b")])
    first, second = claim(queue), claim(queue)
    queue.gone(first)
    queue.finishing(second, URL)
    queue.gone(second)
    assert (now(queue, first).state, now(queue, first).reason) == (State.CANCELLED, Reason.SOURCE_GONE)
    assert now(queue, second).state is State.DONE
    assert set(queue.versions("films", [b""])[b""]) == {b"b"}


def test_a_changed_source_is_superseded(queue: Queue) -> None:
    """The newer version is queued at once where it is known, else by whoever finds it."""
    queue.offer([change(b"a"), change(b"b")])
    first, second = claim(queue), claim(queue)
    queue.opened(first, "s", URL, HASH)
    queue.changed(first, version(2))
    queue.changed(second, None)
    assert (now(queue, first).state, now(queue, first).reason) == (State.SUPERSEDED, Reason.CHANGED)
    assert [job.fingerprint for job in queue.jobs()] == [version(2)]
    assert [ending.session_id for ending in queue.endings()] == ["s"]


def test_a_source_changed_after_its_arrival_is_done_and_queued_anew(queue: Queue) -> None:
    """What arrived stays done; the newer version is a job of its own."""
    started(queue)
    job = claim(queue)
    queue.finishing(job, URL)
    queue.changed(job, version(2))
    assert now(queue, job).state is State.DONE
    assert claim(queue).fingerprint == version(2)


def test_a_source_that_only_seemed_to_change_is_not_tried_in_a_circle(queue: Queue) -> None:
    """The same version told as changed waits like any failure."""
    started(queue)
    job = claim(queue)
    queue.changed(job, job.fingerprint)
    assert now(queue, job).state is State.WAITING
    assert queue.claim(RUN, ["films"]) is None


def test_a_locked_source_is_paused_for_what_it_is(queue: Queue, clock: ManualClock) -> None:
    """A file that another program keeps locked is no trouble of the network; reason and error say so."""
    started(queue)
    for _ in range(queue.retry_settings.attempts):
        clock.advance(1000.0)
        job = claim(queue)
        queue.changed(job, job.fingerprint, "a is locked by another program")
    assert (now(queue, job).state, now(queue, job).reason) == (State.PAUSED, Reason.SOURCE)
    assert now(queue, job).error == "a is locked by another program"
    clock.advance(1000.0)
    assert claim(queue).id == job.id


def test_a_failure_after_arrival_goes_on_where_it_was(queue: Queue) -> None:
    """A file that arrived but could not be moved is not sent again by `retry`, only moved."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, HASH)
    queue.finishing(job, URL)
    queue.fail(job, Reason.AFTER_UPLOAD, "cannot be moved: /\udcff")
    assert now(queue, job).error == "cannot be moved: /\\udcff"
    queue.retry()
    again = claim(queue)
    assert again.state is State.FINISHING
    assert queue.done(again, again.fingerprint)


def test_done_needs_the_servers_complete(queue: Queue) -> None:
    """A job that has not arrived cannot become done, and is not lost by trying."""
    started(queue)
    job = claim(queue)
    assert not queue.done(job, job.fingerprint)
    assert claim(queue).id == job.id


@pytest.mark.parametrize("reason", [Reason.NETWORK, Reason.AUTH])
def test_a_hold_stops_the_queue_behind_one_probe(queue: Queue, clock: ManualClock, reason: Reason) -> None:
    """While it is held nothing is claimed, all idle jobs show why, the probe grows rarer; lifted, all go on."""
    queue.offer([change(b"a"), change(b"b")])
    job = claim(queue)
    assert queue.hold(reason, "no route")
    assert not queue.hold(reason, "no route")
    queue.release(job)
    assert queue.claim(RUN, ["films"]) is None
    assert {(found.shown_state, found.shown_reason) for found in queue.jobs()} == {(State.PAUSED, reason)}
    assert queue.next_due() is None
    waits = []
    for _ in range(8):
        held = queue.held()
        assert held is not None
        waits.append(held.next_probe - clock.monotonic())
        clock.advance(waits[-1])
        queue.probe_failed(reason, "no route")
    assert waits == sorted(waits)
    assert 0 < waits[0] <= 1
    assert waits[-1] <= 60
    queue.probe_now()
    held = queue.held()
    assert held is not None
    assert held.next_probe == clock.monotonic()
    assert queue.lift(reason)
    assert not queue.lift(reason)
    assert claim(queue).attempts == 0


def test_a_lifted_hold_takes_single_jobs_along(queue: Queue) -> None:
    """Jobs paused one by one for the network go on when the network is back."""
    started(queue)
    queue.pause(claim(queue), Reason.NETWORK, "no route")
    queue.hold(Reason.NETWORK, "no route")
    queue.lift(Reason.NETWORK)
    assert claim(queue).path == b"a"


def test_history_keeps_what_was_sent_known(queue: Queue, clock: ManualClock) -> None:
    """Old history is dropped by age and by number; what was sent stays known, and open jobs stay."""
    queue.offer([change(b"%d" % number) for number in range(5)])
    for _ in range(2):
        arrive(queue, claim(queue))
    clock.advance(100 * 86400)
    for _ in range(2):
        arrive(queue, claim(queue))
    assert queue.prune() == 2
    assert [job.path for job in queue.history()] == [b"3", b"2"]
    assert queue.prune(keep_rows=1) == 1
    assert [job.path for job in queue.history()] == [b"3"]
    assert queue.offer([change(b"0")]) == 0
    assert [job.path for job in queue.jobs()] == [b"4"]


def test_what_no_power_cut_may_take_back(queue: Queue) -> None:
    """The session before its first chunk, the arrival before its session ends: durable when the call returns."""

    def durable() -> bool:
        return queue._tables.connection().durable

    started(queue)
    job = claim(queue)
    queue.hashed(job, HASH)
    assert not durable(), "what a power cut takes back of this is found again"
    queue.opened(job, "s", URL, HASH)
    assert durable()
    queue.progress(job, 10, 10)
    assert not durable()
    queue.forgot(job, "s")
    assert durable()
    queue.progress(job, 10, 10)
    queue.finishing(job, URL)
    assert durable()
    queue.done(job, job.fingerprint)
    started(queue, b"small")
    assert not durable()
    queue.arrived_together([Arrival(claim(queue), HASH, 10)], URL)
    assert durable()


def test_a_part_of_the_hash_goes_with_its_session(queue: Queue) -> None:
    """The next claim finds it; with the session given up, or another opened, it is gone; a lost claim keeps none."""
    started(queue)
    job = claim(queue)
    queue.opened(job, "s", URL, None, "v1.name")
    assert queue.hashed_part(job, "part")
    assert queue.release(job)
    again = claim(queue)
    assert (again.session_id, again.hash_part) == ("s", "part")
    assert not queue.hashed_part(job, "late")
    queue.opened(again, "t", URL, None, "v1.name")
    assert now(queue, again).hash_part is None
    assert queue.hashed_part(again, "other")
    queue.forgot(again, "t")
    assert now(queue, again).hash_part is None
