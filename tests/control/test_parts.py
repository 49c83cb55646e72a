"""The event log, who may speak, and names of paths, without a socket."""

from __future__ import annotations

import grp
import os
import pwd
import threading

from hypothesis import given
from hypothesis import strategies as st

from chunkyd.clock import ManualClock
from chunkyd.control.access import may_control
from chunkyd.control.base import name_of
from chunkyd.control.events import LARGEST_BATCH, EventLog
from chunkyd.protocol.paths import decode_path_bytes


def test_the_log_forgets_the_oldest_and_says_so():
    """A listener that is too slow hears of the gap and goes on with what is kept."""
    log = EventLog(ManualClock(), kept=3)
    start = log.after(None, 0).last
    for number in range(5):
        log.publish("tick", text=str(number))
    late = log.after(start, 0)
    assert (late.gap, [event.text for event in late.events]) == (True, ["2", "3", "4"])
    assert not log.after(start + 2, 0).gap
    assert log.after(start + 5, 0).events == ()
    assert log.after(start + 6, 0).gap


@given(kept=st.integers(1, 8), published=st.integers(0, 20), since=st.integers(-3, 24))
def test_what_is_read_is_what_was_published_after(kept: int, published: int, since: int):
    """Without a gap every event after `since` comes, in order; with one, all that is kept."""
    log = EventLog(ManualClock(), kept=kept)
    start = log.after(None, 0).last
    for _ in range(published):
        log.publish("tick")
    batch = log.after(start + since, 0)
    kept_ids = range(max(0, published - kept) + 1, published + 1)
    whole = max(0, published - kept) <= since <= published
    wanted = [number for number in kept_ids if not whole or number > since]
    assert batch.gap is not whole
    assert [event.id - start for event in batch.events] == wanted
    assert batch.last == (start + wanted[-1] if wanted else start + published)


def test_a_large_backlog_comes_in_batches():
    """Each batch is bounded, and `last` leads from one to the next without loss."""
    log = EventLog(ManualClock())
    at = log.after(None, 0).last
    for number in range(LARGEST_BATCH + 1):
        log.publish("tick", text=str(number))
    first = log.after(at, 0)
    second = log.after(first.last, 0)
    assert (len(first.events), [event.text for event in second.events]) == (LARGEST_BATCH, [str(LARGEST_BATCH)])


def test_ids_grow_over_a_restart():
    """A new log, a second later, begins above the old one's last ID."""
    clock = ManualClock()
    old = EventLog(clock)
    old.publish("tick")
    clock.advance(1)
    assert EventLog(clock).after(None, 0).last > old.after(None, 0).last


def test_waiting_ends_with_an_event_and_with_the_log():
    """A listener wakes when something is published, and when the log is closed."""
    log = EventLog(ManualClock())
    start = log.after(None, 0).last
    heard: list[int] = []
    for act in (lambda: log.publish("tick"), log.close):
        thread = threading.Thread(target=lambda: heard.append(len(log.after(start + len(heard), 60).events)))
        thread.start()
        act()
        thread.join(30)
        assert not thread.is_alive()
    assert heard == [1, 0]


def test_members_are_known_by_their_user_not_by_their_process():
    """Root, the own user, and members by the user's groups; another user, or one that does not exist, may not."""
    nobody = pwd.getpwnam("nobody")
    assert may_control(0, 1000, None)
    assert may_control(1000, 1000, None)
    assert not may_control(nobody.pw_uid, 1000, None)
    assert may_control(nobody.pw_uid, 1000, nobody.pw_gid)
    others = [group.gr_gid for group in grp.getgrall() if group.gr_gid not in os.getgrouplist("nobody", nobody.pw_gid)]
    assert not any(may_control(nobody.pw_uid, 1000, group) for group in others)
    assert not may_control(3_999_999_999, 1000, nobody.pw_gid)


@given(st.binary(min_size=1).filter(lambda path: b"\0" not in path))
def test_a_path_is_told_whole(path: bytes):
    """Either the name is the path, or the bytes stand beside it; the name can always be encoded."""
    name, path_bytes = name_of(path)
    name.encode("utf-8")
    assert (name.encode() if path_bytes is None else decode_path_bytes(path_bytes)) == path
