"""To whom everything is sent: what another server was sent is offered to this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.errors import StateError
from chunkyd.jobs.job import no_longer_there
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason, State
from chunkyd.jobs.steps import Arrival
from tests.jobs.shared import HASH, RUN, URL, arrive, change, check_table, claim, now, open_queue, version

OTHER = "http://127.0.0.1:2"


def sent(queue: Queue, path: bytes) -> None:
    """This file has arrived, and its job is done."""
    queue.offer([change(path)])
    arrive(queue, claim(queue))


def offered(queue: Queue, path: bytes) -> bool:
    """Whether a scan that finds the file would have it queued, and whether it is when it is offered."""
    unknown = path not in queue.versions("films", [b""])[b""]
    assert bool(queue.offer([change(path)])) is unknown
    return unknown


def test_the_first_server_is_taken_for_the_one_there_was(tmp_path: Path, clock: ManualClock) -> None:
    """A table of an older version, which does not say to whom it sent: nothing is sent again, and nothing is said."""
    queue = open_queue(tmp_path, clock)
    sent(queue, b"a")
    queue.offer([change(b"b")])
    pending = claim(queue)
    queue.finishing(pending, URL)
    with queue._tables.transaction():
        queue._tables.execute("UPDATE identity SET url = NULL")
        queue._tables.execute("UPDATE jobs SET arrived_url = NULL")
    assert queue.send_to(URL) is None
    assert not offered(queue, b"a")
    queue.done(pending, pending.fingerprint)
    assert not offered(queue, b"b")
    assert queue.send_to(OTHER) == URL
    queue.close()


def test_the_same_server_changes_nothing(queue: Queue) -> None:
    """What was sent is known, and the table is not written to."""
    sent(queue, b"a")
    before = queue._tables.one("PRAGMA data_version"), queue._tables.connection().total_changes
    assert queue.send_to(URL) is None
    assert (queue._tables.one("PRAGMA data_version"), queue._tables.connection().total_changes) == before
    assert not offered(queue, b"a")


def test_what_another_server_was_sent_is_offered_again(queue: Queue) -> None:
    """With its hash, so that none need be taken; and to the first one again, when that is back."""
    sent(queue, b"a")
    assert queue.send_to(OTHER) == URL
    assert queue.send_to(OTHER) is None
    assert queue.known_hash("films", b"a", version(1)) == HASH
    assert offered(queue, b"a")
    job = claim(queue)
    queue.finishing(job, OTHER)
    queue.done(job, job.fingerprint)
    assert not offered(queue, b"a")
    assert queue.send_to(URL) == OTHER
    assert offered(queue, b"a")


def test_a_size_that_another_server_was_sent_is_hashed_first(queue: Queue) -> None:
    """It may be the same server under another name: its bytes are not sent before it was asked."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.done(job, version(1, 9 << 20))
    assert queue.sent_size(9 << 20)
    queue.send_to(OTHER)
    assert queue.sent_size(9 << 20)


def test_cancelled_stays_cancelled(queue: Queue) -> None:
    """What the user would not have sent is not sent to another server either."""
    queue.offer([change(b"a")])
    queue.cancel([claim(queue).id])
    queue.send_to(OTHER)
    assert not offered(queue, b"a")


def test_what_is_queued_goes_to_the_new_one(queue: Queue) -> None:
    """A job that was not sent yet stays what it is, and is known as sent when the new server has it."""
    queue.offer([change(b"a")])
    queue.send_to(OTHER)
    assert not offered(queue, b"a")
    job = claim(queue)
    queue.finishing(job, OTHER)
    queue.done(job, job.fingerprint)
    assert not offered(queue, b"a")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("arrived_before", [False, True])
def test_what_arrives_at_the_old_one_is_queued_again(queue: Queue, together: bool, arrived_before: bool) -> None:
    """Whether its arrival was recorded before the change or after it: no scan need find it."""
    queue.offer([change(b"a", priority=3)])
    job = claim(queue)
    if not arrived_before:
        queue.send_to(OTHER)
    if together:
        assert queue.arrived_together([Arrival(job, HASH, 7)], URL) == [job]
    else:
        assert queue.finishing(job, URL)
    if arrived_before:
        queue.send_to(OTHER)
    assert not offered(queue, b"a")  # it is on its way
    assert queue.done(job, job.fingerprint)
    again = claim(queue)
    assert (again.path, again.priority, again.state, again.arrived) == (b"a", 3, State.HASHING, None)
    assert queue.finishing(again, OTHER)
    assert queue.done(again, again.fingerprint)
    assert queue.claim(RUN, ["films"]) is None
    assert not offered(queue, b"a")


def test_what_was_removed_after_it_arrived_is_not_queued_again(queue: Queue) -> None:
    """There is nothing left to be sent: it was deleted or moved away, as the user would have it."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.send_to(OTHER)
    assert queue.done(job, no_longer_there(job.fingerprint))
    assert queue.jobs() == []


def test_a_newer_version_needs_no_older_one_before_it(queue: Queue) -> None:
    """Beside what has arrived at the old server a newer version waits: that alone goes to the new one."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.offer([change(b"a", number=2)])
    queue.send_to(OTHER)
    assert queue.done(job, job.fingerprint)
    assert [each.fingerprint for each in queue.jobs()] == [version(2)]


@pytest.mark.parametrize("there", [True, False])
def test_arrived_there_and_changed_or_gone_since(queue: Queue, there: bool) -> None:
    """The worker finds another version, or none; the one that was sent, when it is back, is one to be sent here."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.send_to(OTHER)
    if there:
        queue.changed(job, version(2))
        assert claim(queue).fingerprint == version(2)
    else:
        queue.gone(job)
        assert offered(queue, b"a")


def test_what_failed_there_is_tried_here(queue: Queue) -> None:
    """Refused, or its session lost too often, or arrived but not moved; what is wrong with the file itself stays."""
    queue.offer([change(path) for path in (b"refused", b"restarts", b"after-upload", b"error")])
    for _ in range(4):
        job = claim(queue)
        if job.path == b"after-upload":
            queue.finishing(job, URL)
        queue.fail(job, Reason(job.path.decode()), "no")
    queue.send_to(OTHER)
    tried = [claim(queue) for _ in range(3)]
    assert [job.path for job in tried] == [b"refused", b"restarts", b"after-upload"]
    assert {job.state for job in tried} == {State.HASHING}
    assert [job.path for job in queue.jobs([State.FAILED])] == [b"error"]


def test_what_waits_for_the_old_one_goes_now(queue: Queue) -> None:
    """It had no room, or did not answer; a file that another program has locked is still locked."""
    queue.offer([change(path) for path in (b"full", b"away", b"locked")])
    queue.pause(claim(queue), Reason.SERVER_FULL, "full")
    queue.wait(claim(queue), "away")
    queue.pause(claim(queue), Reason.SOURCE, "locked")
    queue.send_to(OTHER)
    assert [claim(queue).path, claim(queue).path] == [b"full", b"away"]
    assert queue.claim(RUN, ["films"]) is None


def test_what_failed_there_beside_a_newer_version_stays(queue: Queue) -> None:
    """There can be but one open job for a path, and the newer version is the one to be sent."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.offer([change(b"a", number=2)])
    queue.fail(job, Reason.AFTER_UPLOAD, "no")
    queue.send_to(OTHER)
    assert now(queue, job).state is State.FAILED
    assert claim(queue).fingerprint == version(2)


def test_all_or_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """Where it cannot be recorded nothing of it is: the next start says the same again."""
    queue = open_queue(tmp_path, clock)
    sent(queue, b"a")
    with queue._tables.transaction():
        queue._tables.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE OF sent ON known BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(StateError):
        queue.send_to(OTHER)
    with queue._tables.transaction():
        queue._tables.execute("DROP TRIGGER refuse")
    assert not offered(queue, b"a")
    assert queue.send_to(OTHER) == URL
    assert offered(queue, b"a")
    check_table(queue)
    queue.close()


def test_what_the_server_before_refuses_in_the_end_is_sent_to_this_one(queue: Queue) -> None:
    """Its answer was on the way when the other one was named: nobody else has said no."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.send_to(OTHER)
    queue.fail(job, Reason.REFUSED, "no", url=URL)
    assert now(queue, job).state is State.QUEUED
    job = claim(queue)
    queue.fail(job, Reason.REFUSED, "no", url=OTHER)
    assert now(queue, job).state is State.FAILED
    check_table(queue)


def test_what_arrived_at_the_server_before_and_cannot_be_deleted_is_sent_to_this_one(queue: Queue) -> None:
    """As where it could not be deleted before the other one was named."""
    queue.offer([change(b"a")])
    job = claim(queue)
    queue.finishing(job, URL)
    queue.send_to(OTHER)
    queue.fail(job, Reason.AFTER_UPLOAD, "no permission")
    found = now(queue, job)
    assert found.state is State.QUEUED and found.arrived is None
    job = claim(queue)
    queue.finishing(job, OTHER)
    queue.fail(job, Reason.AFTER_UPLOAD, "no permission")
    assert now(queue, job).state is State.FAILED
    check_table(queue)


def test_an_older_version_that_failed_is_not_in_the_way(queue: Queue, clock: ManualClock) -> None:
    """It waits for nothing: the newer one is queued again."""
    queue.offer([change(b"a")])
    old = claim(queue)
    queue.finishing(old, URL)
    queue.offer([change(b"a", 2)])
    queue.fail(old, Reason.AFTER_UPLOAD, "no permission")
    new = claim(queue)
    queue.send_to(OTHER)
    clock.advance(1)
    queue.finishing(new, URL)
    queue.done(new, new.fingerprint)
    assert claim(queue).fingerprint == version(2)
    check_table(queue)
