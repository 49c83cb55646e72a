"""When a file is ready."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chunkyd.files import Fingerprint
from chunkyd.watch.settle import LONGEST_PAUSE, Settling

SETTLE = 5.0


def version(number: int) -> Fingerprint:
    return Fingerprint(1, 2, number, number, number)


def test_an_unchanged_file_is_ready_after_the_settle_time() -> None:
    """Two looks with the same version, the settle time apart, make a file ready, and forgotten."""
    settling = Settling(SETTLE)
    settling.hint(b"a", 10.0)
    assert settling.due(10.0) == [b"a"]
    assert not settling.saw(b"a", version(1), 10.0)
    assert settling.next_deadline() == 15.0
    assert settling.due(14.9) == []
    assert settling.due(15.0) == [b"a"]
    assert settling.saw(b"a", version(1), 15.0)
    assert len(settling) == 0
    assert settling.next_deadline() is None


def test_a_file_left_alone_long_ago_is_ready_at_once() -> None:
    """A file whose own times prove the quiet need not wait again."""
    assert Settling(SETTLE).saw(b"a", version(1), 10.0, quiet=5.0)


def test_a_writer_that_pauses_is_waited_for() -> None:
    """While somebody has it open for writing a quiet file is not ready; it is once that is over."""
    settling = Settling(SETTLE)
    settling.saw(b"a", version(1), 10.0, written=lambda: True)
    assert not settling.saw(b"a", version(1), 15.0, written=lambda: True)
    assert settling.next_deadline() == 20.0
    assert settling.saw(b"a", version(1), 20.0, written=lambda: False)


def test_a_writer_that_never_closes_is_not_waited_for_ever() -> None:
    """Ten times the settle time of quiet are enough, whoever has the file open."""
    settling = Settling(SETTLE)
    settling.saw(b"a", version(1), 10.0, written=lambda: True)
    assert not settling.saw(b"a", version(1), 59.9, written=lambda: True)
    assert settling.saw(b"a", version(1), 60.0, written=lambda: True)


def test_its_own_times_make_the_moment_exact() -> None:
    """A change between two looks counts from when it was made, not from when it was seen."""
    settling = Settling(SETTLE)
    settling.saw(b"a", version(1), 10.0)
    assert not settling.saw(b"a", version(2), 15.0, quiet=2.0)
    assert settling.next_deadline() == 18.0


def test_times_that_cannot_be_are_not_believed() -> None:
    """A file that changed after the last look was not quiet for longer than that, whatever a jumping clock says."""
    settling = Settling(SETTLE)
    settling.saw(b"a", version(1), 10.0)
    assert not settling.saw(b"a", version(2), 12.0, quiet=3600.0)
    assert settling.next_deadline() == 15.0


def test_what_stirs_is_not_quiet() -> None:
    """A file that an event has just told of waits the whole settle time, though its own times lie a day back."""
    settling = Settling(SETTLE)
    settling.hint(b"a", 10.0)
    assert not settling.saw(b"a", version(1), 10.1, quiet=86400.0)
    assert settling.next_deadline() == 15.0
    assert settling.saw(b"a", version(1), 15.0, quiet=86405.0)


def test_hints_do_not_shorten_the_settle_time() -> None:
    """However often a file is hinted at, it is looked at a few times a second and ready no earlier."""
    settling = Settling(SETTLE)
    now, looks = 10.0, 0
    while now < 14.99:
        settling.hint(b"a", now)
        for path in settling.due(now):
            looks += 1
            assert not settling.saw(path, version(1), now)
        now += 0.001
    assert looks <= 5 / 0.05 + 1
    assert settling.saw(b"a", version(1), 15.0)


def test_a_restless_file_is_looked_at_ever_more_rarely() -> None:
    """The pauses between looks grow to a minute at most, and the file is said to be changing."""
    settling = Settling(SETTLE)
    settling.saw(b"log", version(0), 0.0)
    now, pauses, number = 0.0, [], 0
    while now < 1000.0:
        deadline = settling.next_deadline()
        assert deadline is not None
        pauses.append(deadline - now)
        now, number = deadline, number + 1
        assert settling.due(now) == [b"log"]
        assert not settling.saw(b"log", version(number), now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert settling.changing(now) == [b"log"]


def test_what_cannot_be_looked_at_is_tried_ever_more_rarely() -> None:
    """Again in a second, then in two, and so on up to a minute."""
    settling, now, pauses = Settling(1.0), 0.0, []
    settling.hint(b"a", now)
    for _ in range(8):
        due = settling.next_deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
        assert settling.due(now) == [b"a"]
        settling.postpone(b"a", now)
    assert pauses[1:] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_hint_wakes_a_restless_file() -> None:
    """When the writer of a restless file closes it, the settle time counts at once and not after the long pause."""
    settling = Settling(SETTLE)
    now = 0.0
    settling.saw(b"log", version(0), now)
    for number in range(1, 12):
        now = settling.next_deadline() or 0.0
        settling.due(now)
        settling.saw(b"log", version(number), now)
    settling.hint(b"log", now + 1)
    assert settling.due(now + 1) == [b"log"]
    settling.saw(b"log", version(99), now + 1)
    assert settling.next_deadline() == now + 1 + SETTLE


def test_a_forgotten_file_is_never_due() -> None:
    """A file that went away leaves no look behind."""
    settling = Settling(SETTLE)
    settling.hint(b"a", 0.0)
    settling.forget(b"a")
    assert settling.due(1e9) == []
    assert settling.next_deadline() is None


def test_without_stable_inodes_size_and_time_decide() -> None:
    """On FAT another inode for the same size and mtime is no change."""
    settling = Settling(SETTLE, stable_inodes=False)
    settling.saw(b"a", Fingerprint(1, 2, 3, 4, 5), 0.0)
    assert settling.saw(b"a", Fingerprint(1, 99, 3, 4, 99), 5.0)


@settings(max_examples=300, deadline=None)
@given(
    writes=st.lists(st.floats(0.01, 40.0), max_size=25),
    hints=st.lists(st.floats(0.01, 400.0), max_size=25),
    trusted=st.booleans(),
)
def test_a_replayed_file(writes: list[float], hints: list[float], trusted: bool) -> None:
    """Whatever is written when, and hinted when: a file is ready never before it was quiet, and not much later.

    With its own times known it is ready exactly; without, a settle time (or a long pause) later at most.
    """
    times = []
    for pause in writes:
        times.append((times[-1] if times else 0.0) + pause)
    last = times[-1] if times else 0.0

    def seen(now: float) -> tuple[Fingerprint, float]:
        before = [time for time in times if time <= now]
        quiet = now - before[-1] if before else now
        return version(len(before)), quiet if trusted else 0.0

    settling = Settling(SETTLE)
    settling.saw(b"a", version(0), 0.0)
    waiting = sorted(hints)
    while True:
        deadline = settling.next_deadline()
        assert deadline is not None
        while waiting and waiting[0] <= deadline:
            settling.hint(b"a", waiting.pop(0))
            deadline = min(deadline, settling.next_deadline() or deadline)
        for path in settling.due(deadline):
            current, quiet = seen(deadline)
            if settling.saw(path, current, deadline, quiet):
                latest = max([time for time in times if time <= deadline], default=0.0)
                assert deadline - latest >= SETTLE - 1e-6
                assert deadline <= max(last, latest) + 2 * SETTLE + LONGEST_PAUSE
                return


@given(
    edits=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    pauses=st.lists(st.integers(1, 4), min_size=1, max_size=20),
)
def test_what_is_ready_can_no_longer_change_unseen(edits: list[int], pauses: list[int]) -> None:
    """A settle time as long as the grain of the times: any edit after a file is ready gives it another time."""
    grain, now = 4, 0
    settling = Settling(grain, stable_inodes=False)
    for pause in pauses:
        now += pause
        before = [edit for edit in edits if edit <= now]
        if before:
            modified = max(before) // grain * grain
            if settling.saw(b"a", Fingerprint(1, 2, 3, modified, modified), now):
                assert now // grain * grain > modified
