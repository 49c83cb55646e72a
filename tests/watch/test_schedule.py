"""When scans are due."""

from __future__ import annotations

from chunkyd.watch.schedule import Schedule, Ticket

NEVER = float("inf")


def test_a_rescan_follows_its_interval() -> None:
    """After a scan the next is an interval away; without one there is none."""
    schedule = Schedule()
    schedule.begin(10.0)
    assert schedule.next_full == 10.0
    schedule.started(10.0)
    schedule.ended(12.0, 3600.0, polled=False)
    assert schedule.next_full == 3612.0
    schedule.started(3612.0)
    schedule.ended(3613.0, 0.0, polled=False)
    assert schedule.next_full == NEVER


def test_a_poll_takes_a_tenth_of_the_time() -> None:
    """A folder that takes long to read is polled the more rarely, but never more rarely than it is rescanned."""
    schedule = Schedule()
    schedule.started(0.0)
    schedule.ended(0.1, 3600.0, polled=True)
    assert schedule.next_full == 5.1
    schedule.started(10.0)
    schedule.ended(70.0, 3600.0, polled=True)
    assert schedule.next_full == 670.0
    schedule.started(1000.0)
    schedule.ended(2000.0, 60.0, polled=True)
    assert schedule.next_full == 2060.0


def test_overflows_are_answered_ever_more_slowly() -> None:
    """Each scan that was overflowed again doubles the pause, up to a minute; a scan in peace ends it."""
    schedule = Schedule()
    schedule.started(0.0)
    schedule.ended(0.0, 0.0, polled=False)
    schedule.overflowed(0.0)
    schedule.overflowed(0.5)
    assert schedule.next_full == 1.0
    pauses, now = [], 1.0
    for _ in range(8):
        schedule.started(now)
        schedule.overflowed(now)
        schedule.ended(now, 0.0, polled=False)
        pauses.append(schedule.next_full - now)
        now = schedule.next_full
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    schedule.started(now)
    schedule.ended(now, 0.0, polled=False)
    schedule.overflowed(now)
    assert schedule.next_full == now + 1.0


def test_who_asks_during_a_scan_waits_for_the_next() -> None:
    """A scan under way may be past the place that is meant: a ticket is honoured by one that begins later."""
    schedule, first, second = Schedule(), Ticket(), Ticket()
    schedule.wanted(first, 0.0)
    schedule.started(0.0)
    schedule.wanted(second, 1.0)
    assert schedule.ended(2.0, 3600.0, polled=False) == [first]
    assert schedule.next_full == 2.0
    schedule.started(2.0)
    assert schedule.ended(3.0, 3600.0, polled=False) == [second]


def test_an_interrupted_scans_tickets_wait_for_the_next() -> None:
    """A root that was replaced in the middle is scanned again, and who waited still waits; a missing one tells them."""
    schedule, ticket = Schedule(), Ticket()
    schedule.wanted(ticket, 0.0)
    schedule.started(0.0)
    schedule.interrupted()
    assert not ticket.wait(0)
    schedule.started(1.0)
    assert schedule.ended(2.0, 0.0, polled=False) == [ticket]
    schedule.wanted(ticket, 3.0)
    schedule.give_up()
    assert not ticket.wait(5)


def test_unwatched_directories_are_polled_while_there_are_any() -> None:
    """The poll is due five seconds on, again and again, and never once all are watched."""
    schedule = Schedule()
    schedule.poll(0.0, wanted=True)
    assert schedule.next_poll == 5.0
    schedule.poll(3.0, wanted=True)
    assert schedule.next_poll == 5.0
    schedule.poll(5.0, wanted=True)
    assert schedule.next_poll == 10.0
    schedule.poll(6.0, wanted=False)
    assert schedule.next_poll == NEVER
