"""The pure machine: its rules one by one, then against a model of a server that loses, duplicates and shares."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chunkyd.errors import NetworkError, Problem, Unreachable
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import RangeSet
from chunkyd.upload.machine import (
    AskStatus,
    Declare,
    Declared,
    Failed,
    Hashed,
    Initiate,
    Known,
    Machine,
    Phase,
    Refused,
    Rules,
    Send,
    Stored,
    TakeHash,
)
from chunkyd.upload.patience import Patience

MIB = 1024 * 1024


def opened(total: int = 100 * MIB, *, rules: Rules | None = None, most: int = 64 * MIB) -> Machine:
    machine = Machine(total, rules or Rules(), lambda: 0.5, resuming=False)
    (request,) = machine.requests(0)
    machine.handle(Known(request, "incomplete", ((0, total),), most, 8 * MIB), 0)
    return machine


def network_error() -> NetworkError:
    return NetworkError("no answer")


def test_it_begins_with_one_initiate_and_nothing_beside_it() -> None:
    """Before the session is open only the initiate is under way."""
    machine = Machine(10, Rules(), lambda: 0.5, resuming=False)
    assert [type(each) for each in machine.requests(0)] == [Initiate]
    assert machine.requests(0) == []


def test_a_resumed_upload_asks_first_and_sends_only_what_is_missing() -> None:
    """After an interruption the status comes first, and no byte outside the missing ranges is sent."""
    machine = Machine(100, Rules(), lambda: 0.5, resuming=True)
    (request,) = machine.requests(0)
    assert isinstance(request, AskStatus)
    machine.handle(Known(request, "incomplete", ((10, 20), (90, 100))), 0)
    assert [each.chunk for each in machine.requests(0)] == [(10, 20), (90, 100)]


@pytest.mark.parametrize("total", [0, 100])
@pytest.mark.parametrize("resuming", [False, True])
def test_nothing_missing_and_never_complete_is_given_up(total: int, resuming: bool) -> None:
    """A server that lists nothing as missing, and says incomplete all the same, is asked five times more at most."""
    machine = Machine(total, Rules(), lambda: 0.5, resuming=resuming)
    asked = 0
    for now in range(0, 10000, 1000):
        for request in machine.requests(now):
            asked += 1
            machine.handle(Known(request, "incomplete", ()), now)
    assert asked == 6
    assert isinstance(machine.failure, Unreachable)
    assert "lists nothing as missing" in str(machine.failure)


def test_nothing_missing_any_more_is_asked_after() -> None:
    """The last missing chunk is stored while the status that still listed it is on its way: the next answer says it."""
    machine = opened(100, rules=Rules(parallel_chunks=1, chunk_size=50))
    (first,) = machine.requests(0)
    machine.handle(Failed(first, network_error()), 0)
    (ask,) = machine.requests(1000)
    machine.handle(Known(ask, "incomplete", ()), 1000)
    (again,) = machine.requests(1000)
    assert isinstance(again, AskStatus)
    machine.handle(Known(again, "complete", ()), 1000)
    assert machine.phase is Phase.COMPLETE


def test_what_is_stored_while_a_status_is_on_its_way_is_not_sent_again() -> None:
    """The status says what was missing before that; the chunk's own answer came meanwhile."""
    machine = opened(100, rules=Rules(parallel_chunks=2, chunk_size=50))
    first, second = machine.requests(0)
    machine.handle(Failed(first, network_error()), 0)
    (ask,) = machine.requests(1000)
    machine.handle(Stored(second, "incomplete", 1.0), 1000)
    machine.handle(Known(ask, "incomplete", ((0, 100),)), 1000)
    assert RangeSet(each.chunk for each in machine.requests(1000)) == RangeSet([first.chunk])


def test_chunks_are_parallel_and_disjoint() -> None:
    """As many chunks as allowed are under way, none overlapping another."""
    chunks = [each.chunk for each in opened(rules=Rules(parallel_chunks=3)).requests(0)]
    assert len(chunks) == 3
    assert RangeSet(chunks).total == sum(stop - start for start, stop in chunks)


def test_failures_together_are_one_attempt() -> None:
    """Four connections cut in one moment cost one of the five attempts, not four."""
    machine = opened()
    for request in machine.requests(0):
        machine.handle(Failed(request, network_error()), 1)
    assert machine.failures == 1


def test_five_attempts_without_progress_and_then_unreachable() -> None:
    """The fifth failure in a row gives up, with the last error as its cause."""
    machine = opened()
    now = 0.0
    for _ in range(5):
        now += 1000
        for request in machine.requests(now):
            machine.handle(Failed(request, network_error()), now)
    assert isinstance(machine.failure, Unreachable)
    assert isinstance(machine.failure.__cause__, NetworkError)


def test_progress_resets_the_attempts_even_when_another_client_made_it() -> None:
    """A status that lists less as missing than ever before resets the count."""
    machine = opened()
    for request in machine.requests(0):
        machine.handle(Failed(request, network_error()), 1)
    (ask,) = machine.requests(1000)
    machine.handle(Known(ask, "incomplete", ((50 * MIB, 100 * MIB),)), 1000)
    assert machine.failures == 0


def test_a_server_that_takes_back_what_it_stored_runs_out_of_attempts() -> None:
    """200 to every chunk and everything missing in every status is no progress, and ends."""
    machine = opened(8 * MIB)
    now = 0.0
    for _ in range(100):
        now += 1000
        if machine.failure:
            break
        for request in machine.requests(now):
            if isinstance(request, Send):
                machine.handle(Stored(request, "incomplete", 1), now)
            else:
                machine.handle(Known(request, "incomplete", ((0, 8 * MIB),)), now)
    assert isinstance(machine.failure, Unreachable)


def test_retry_after_is_honoured_over_the_jitter() -> None:
    """A Retry-After of the peer is the least it waits."""
    machine = opened()
    request, *_ = machine.requests(0)
    machine.handle(Failed(request, NetworkError("busy", retry_after=60)), 0)
    assert machine.requests(59) == []
    assert machine.requests(61)


def test_wait_costs_no_attempt() -> None:
    """429 again and again never uses up the attempts."""
    machine = Machine(10, Rules(), lambda: 0.5, resuming=False)
    now = 0.0
    for _ in range(50):
        now += 1000
        (request,) = machine.requests(now)
        machine.handle(Refused(request, problem("rate-limited", "", retry_after=3)), now)
        assert machine.requests(now + 2.9) == []
    assert (machine.failure, machine.failures) == (None, 0)


def test_a_full_server_is_waited_for_or_told_as_asked() -> None:
    """storage-full waits by default; a caller that waits itself gets the problem."""
    full = problem("storage-full", "", retry_after=10)
    patient = Machine(10, Rules(), lambda: 0.5, resuming=False)
    patient.handle(Refused(patient.requests(0)[0], full), 0)
    assert patient.failure is None
    hasty = Machine(10, Rules(wait_when_full=False), lambda: 0.5, resuming=False)
    hasty.handle(Refused(hasty.requests(0)[0], full), 0)
    assert hasty.failure is full


def test_a_chunk_in_progress_elsewhere_is_left_alone_for_a_while() -> None:
    """409 for a chunk sends others meanwhile, and asks for the status before that chunk is tried again."""
    machine = opened(rules=Rules(parallel_chunks=1))
    (request,) = machine.requests(0)
    machine.handle(Refused(request, problem("chunk-in-progress", "", retry_after=5)), 0)
    (other,) = machine.requests(0)
    assert isinstance(other, Send)
    assert other.chunk[0] >= request.chunk[1]
    machine.handle(Stored(other, "incomplete", 1), 1)
    assert isinstance(machine.requests(6)[0], AskStatus)


def test_an_expired_session_is_replaced_once() -> None:
    """The first unknown or expired session leads to another initiate, the second ends the upload."""
    machine = opened()
    requests = machine.requests(0)
    for request in requests:
        machine.handle(Refused(request, problem("session-expired", "")), 0)
    (again,) = machine.requests(0)
    assert isinstance(again, Initiate)
    assert again.session == 2
    machine.handle(Known(again, "incomplete", ((0, 100 * MIB),)), 0)
    machine.handle(Refused(machine.requests(0)[0], problem("invalid-session-id", "")), 0)
    assert isinstance(machine.failure, Problem)


def test_answers_for_an_old_session_are_ignored() -> None:
    """A chunk stored in the session that is gone is not taken for stored in the new one."""
    machine = opened()
    first, second, *_ = machine.requests(0)
    machine.handle(Refused(first, problem("session-expired", "")), 0)
    machine.handle(Stored(second, "incomplete", 1), 0)
    assert machine.stored_bytes == 0


def test_a_chunk_too_large_is_halved_to_the_limit_named() -> None:
    """chunk-too-large makes smaller chunks at once: as large as the server says, else half."""
    for members, length in (({"maxChunkBytes": MIB}, MIB), ({}, 4 * MIB)):
        machine = opened(rules=Rules(parallel_chunks=1))
        (request,) = machine.requests(0)
        machine.handle(Refused(request, problem("chunk-too-large", "", **members)), 0)
        (smaller,) = machine.requests(0)
        assert smaller.chunk == (0, length)


def test_a_chunk_that_is_too_large_at_the_floor_ends_the_upload() -> None:
    """Where not even 256 KiB pass, the problem is raised."""
    machine = opened(256 * 1024)
    (request,) = machine.requests(0)
    machine.handle(Refused(request, problem("chunk-too-large", "")), 0)
    assert isinstance(machine.failure, Problem)


def test_fast_chunks_grow_and_slow_ones_shrink() -> None:
    """The size of a chunk follows the time it took, within the server's limit."""
    machine = opened(1000 * MIB, rules=Rules(parallel_chunks=1), most=32 * MIB)
    lengths = []
    for seconds in (0.1, 0.1, 0.1, 0.1, 40.0, 4.0):
        (request,) = machine.requests(0)
        lengths.append(request.chunk[1] - request.chunk[0])
        machine.handle(Stored(request, "incomplete", seconds), 0)
    assert lengths == [8 * MIB, 16 * MIB, 32 * MIB, 32 * MIB, 32 * MIB, int(3.2 * MIB)]


def test_chunks_that_are_cut_get_smaller() -> None:
    """A link that breaks in the middle of each chunk is tried with shorter ones."""
    machine = opened(rules=Rules(parallel_chunks=1))
    (request,) = machine.requests(0)
    machine.handle(Failed(request, network_error()), 0)
    (ask,) = machine.requests(1000)
    machine.handle(Known(ask, "incomplete", ((0, 100 * MIB),)), 1000)
    (smaller,) = machine.requests(1000)
    assert smaller.chunk == (0, 4 * MIB)


def test_a_fixed_chunk_size_stays() -> None:
    """What the user asked for neither grows nor shrinks."""
    machine = opened(rules=Rules(parallel_chunks=1, chunk_size=MIB))
    for seconds in (0.1, 100.0, 0.1):
        (request,) = machine.requests(0)
        assert request.chunk[1] - request.chunk[0] == MIB
        machine.handle(Stored(request, "incomplete", seconds), 0)


def test_verifying_is_polled_with_growing_pauses_and_costs_no_attempt() -> None:
    """While the server hashes, the status is asked every so often, for as long as it takes."""
    machine = opened(10)
    (send,) = machine.requests(0)
    machine.handle(Stored(send, "verifying", 1), 0)
    now, looks = 0.0, []
    while now < 100:
        now = machine.wake_at() or now
        for request in machine.requests(now):
            looks.append(now)
            machine.handle(Known(request, "verifying", ()), now)
    assert 20 < len(looks) < 100
    assert machine.failure is None
    (request,) = machine.requests(machine.wake_at() or 0)
    machine.handle(Known(request, "complete", ()), now)
    assert machine.phase is Phase.COMPLETE


def test_a_copy_that_falls_back_to_receiving_is_an_ordinary_upload() -> None:
    """`verifying` at the start and then everything missing costs no attempt and sends it all."""
    machine = Machine(10, Rules(), lambda: 0.5, resuming=False)
    machine.handle(Known(machine.requests(0)[0], "verifying", (), MIB, MIB), 0)
    machine.handle(Known(machine.requests(1)[0], "incomplete", ((0, 10),)), 1)
    assert machine.failures == 0
    assert [each.chunk for each in machine.requests(1)] == [(0, 10)]


def late(total: int = 100, **options: object) -> Machine:
    """A late upload whose session is open and whose bytes are stored."""
    machine = Machine(
        total, Rules(parallel_chunks=1, chunk_size=total), lambda: 0.5, resuming=False, late=True, **options
    )
    initiate = machine.requests(0)[-1]
    machine.handle(Known(initiate, "incomplete", ((0, total),), MIB, MIB), 0)
    (send,) = machine.requests(0)
    machine.handle(Stored(send, "incomplete", 1), 0)
    return machine


def test_a_late_hash_is_taken_beside_everything_and_declared_last() -> None:
    """It is asked for once and at first; declared when all is stored; nothing is polled or asked before."""
    machine = Machine(100, Rules(parallel_chunks=2, chunk_size=50), lambda: 0.5, resuming=False, late=True)
    hashing, initiate = machine.requests(0)
    assert isinstance(hashing, TakeHash) and isinstance(initiate, Initiate)
    machine.handle(Known(initiate, "incomplete", ((0, 100),), MIB, MIB), 0)
    first, second = machine.requests(0)
    machine.handle(Stored(second, "incomplete", 1), 0)
    machine.handle(Hashed(hashing, "h"), 0)
    assert machine.requests(0) == []
    machine.handle(Stored(first, "incomplete", 1), 0)
    (declare,) = machine.requests(0)
    assert isinstance(declare, Declare) and declare.file_hash == "h"
    assert machine.requests(0) == []
    machine.handle(Declared(declare, "verifying"), 0)
    assert machine.phase is Phase.VERIFYING
    (ask,) = machine.requests(machine.wake_at() or 0)
    machine.handle(Known(ask, "complete", ()), 1)
    assert machine.phase is Phase.COMPLETE


def test_all_stored_waits_for_the_hash_however_long() -> None:
    """Until the hash is taken nothing falls due, and no attempt is used up by a server that waits for it."""
    machine = late()
    for now in range(0, 100_000, 1000):
        assert machine.requests(now) == []
    assert (machine.wake_at(), machine.failure, machine.failures) == (None, None, 0)


def test_a_hash_that_is_known_is_not_taken_again() -> None:
    """One that was taken before an interruption is declared as soon as all is stored."""
    machine = late(file_hash="h")
    (declare,) = machine.requests(0)
    assert isinstance(declare, Declare)
    machine.handle(Declared(declare, "complete"), 0)
    assert machine.phase is Phase.COMPLETE


@pytest.mark.parametrize("status", ["verifying", "complete"])
def test_what_another_has_declared_is_declared_all_the_same(status: str) -> None:
    """A session that is complete already is complete for us when it has taken our hash, and is not polled before."""
    machine = Machine(100, Rules(), lambda: 0.5, resuming=True, late=True)
    hashing, ask = machine.requests(0)
    machine.handle(Known(ask, status, ()), 0)
    assert machine.requests(1000) == [] and machine.phase is Phase.VERIFYING
    machine.handle(Hashed(hashing, "h"), 1000)
    (declare,) = machine.requests(1000)
    machine.handle(Refused(declare, problem("invalid-file-hash", "")), 1000)
    assert isinstance(machine.failure, Problem)
    assert machine.phase is Phase.VERIFYING


def test_a_declaration_without_an_answer_is_repeated() -> None:
    """After a look at the status, as for a chunk; five in a row without progress and it is given up."""
    machine = late(file_hash="h")
    now = 0.0
    for _ in range(5):
        (declare,) = machine.requests(now)
        assert isinstance(declare, Declare)
        machine.handle(Failed(declare, network_error()), now)
        now += 1000
        for ask in machine.requests(now):
            assert isinstance(ask, AskStatus)
            machine.handle(Known(ask, "incomplete", ()), now)
    assert isinstance(machine.failure, Unreachable)


def test_a_declaration_that_finds_bytes_missing() -> None:
    """The server has not stored what it said: it is asked, and gets the rest."""
    machine = late(file_hash="h")
    (declare,) = machine.requests(0)
    machine.handle(Declared(declare, "incomplete"), 0)
    (ask,) = machine.requests(0)
    machine.handle(Known(ask, "incomplete", ((40, 50),)), 0)
    assert [each.chunk for each in machine.requests(1000)] == [(40, 50)]


def test_a_session_that_was_lost_is_replaced_by_one_with_the_hash() -> None:
    """It may have been lost because another client saw it complete: the hash is waited for, and then says so."""
    machine = Machine(100, Rules(), lambda: 0.5, resuming=True, late=True)
    hashing, ask = machine.requests(0)
    machine.handle(Refused(ask, problem("invalid-session-id", "")), 0)
    assert machine.requests(1000) == []
    machine.handle(Hashed(hashing, "h"), 1000)
    (initiate,) = machine.requests(1000)
    assert isinstance(initiate, Initiate) and initiate.session == 2
    machine.handle(Known(initiate, "complete", ()), 1000)
    assert machine.phase is Phase.COMPLETE


def test_a_session_lost_after_its_declaration_needs_no_other() -> None:
    """What replaces it has begun with the hash, and is complete by its last chunk."""
    machine = late(file_hash="h")
    (declare,) = machine.requests(0)
    machine.handle(Refused(declare, problem("session-expired", "")), 0)
    (initiate,) = machine.requests(0)
    machine.handle(Known(initiate, "incomplete", ((0, 100),), MIB, MIB), 0)
    (send,) = machine.requests(0)
    machine.handle(Stored(send, "complete", 1), 0)
    assert machine.phase is Phase.COMPLETE


def test_failures_in_a_row_are_tried_ever_more_rarely() -> None:
    """Twice as long each time, up to the most; progress begins anew; what the server asks for is the least."""
    patience = Patience(99, 1.0, 10.0, lambda: 0.5)

    def failed(retry_after: float | None = None) -> float:
        patience.failed(patience.round, NetworkError("reset"), retry_after, 0.0)
        pause, patience.not_before = patience.not_before, 0.0
        return pause

    pauses = [failed() for _ in range(6)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert failed(retry_after=7.0) == 7.0
    patience.progress()
    assert failed() == 0.5


class Against(RuleBasedStateMachine):
    """A server with a set of stored bytes, another client, and a network that loses requests, answers and both."""

    TOTAL = 40
    LATE = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machine = Machine(
            self.TOTAL,
            Rules(chunk_size=7, parallel_chunks=3, attempts=5),
            lambda: 0.5,
            resuming=False,
            late=self.LATE,
        )
        self.declared = not self.LATE
        self.stored = RangeSet()
        self.session = 0
        self.open: list = []
        self.finished = False

    def answer(self, event) -> None:
        self.open.remove(event.request)
        self.machine.handle(event, self.now)

    def status(self) -> str:
        return "complete" if self.declared and self.stored.covers(0, self.TOTAL) else "incomplete"

    def missing(self):
        return tuple(self.stored.missing(0, self.TOTAL))

    @rule()
    def go_on(self) -> None:
        """Ask the machine what to do."""
        requests = self.machine.requests(self.now)
        for request in requests:
            if isinstance(request, Send):
                assert 0 <= request.chunk[0] < request.chunk[1] <= self.TOTAL
        self.open.extend(requests)

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @precondition(lambda self: self.open)
    @rule(data=st.data(), fate=st.sampled_from(["done", "done", "done", "lost", "answer lost", "refused", "busy"]))
    def one_ends(self, data, fate: str) -> None:
        """One request under way comes to its end."""
        request = data.draw(st.sampled_from(self.open))
        if isinstance(request, TakeHash):
            self.answer(Hashed(request, "h"))
        elif fate == "lost":
            self.answer(Failed(request, network_error()))
        elif fate == "refused":
            self.answer(Refused(request, problem("internal", "")))
        elif fate == "busy":
            self.answer(Refused(request, problem("rate-limited", "", retry_after=1)))
        elif isinstance(request, Initiate):
            self.session = request.session
            if fate == "answer lost":
                self.answer(Failed(request, network_error()))
            else:
                self.answer(Known(request, self.status(), self.missing(), 10, 10))
        elif isinstance(request, AskStatus):
            self.answer(Known(request, self.status(), self.missing()))
        elif isinstance(request, Declare):
            self.declared = True
            lost = fate == "answer lost"
            self.answer(Failed(request, network_error()) if lost else Declared(request, self.status()))
        else:
            before = self.stored.total
            self.stored.add(*request.chunk)
            assert self.stored.total >= before
            if fate == "answer lost":
                self.answer(Failed(request, network_error()))
            else:
                self.answer(Stored(request, self.status(), 1.0))

    @rule(start=st.integers(0, 39), length=st.integers(1, 10))
    def another_client_stores(self, start: int, length: int) -> None:
        """The session is shared."""
        if self.session:
            self.stored.add(start, min(start + length, self.TOTAL))

    @invariant()
    def never_more_than_allowed(self) -> None:
        """At most three chunks and one question are under way, and nothing twice at once."""
        sends = [each for each in self.open if isinstance(each, Send)]
        assert len(sends) <= 3
        hashing = sum(isinstance(each, TakeHash) for each in self.open)
        assert hashing <= 1
        assert len(self.open) - len(sends) - hashing <= 1
        assert RangeSet(each.chunk for each in sends).total == sum(s.chunk[1] - s.chunk[0] for s in sends)

    @invariant()
    def complete_only_when_all_is_there(self) -> None:
        """The machine never believes more than the server has."""
        if self.machine.phase is Phase.COMPLETE:
            assert self.stored.covers(0, self.TOTAL) and self.declared
        if self.session and self.machine.phase is Phase.SENDING:
            assert self.machine.stored_bytes <= self.stored.total

    def teardown(self) -> None:
        """However it stands: with a network that works it gets there, unless it had given up."""
        for _ in range(200):
            if self.machine.phase is Phase.COMPLETE or self.machine.failure is not None:
                break
            self.now = max(self.now, self.machine.wake_at() or self.now)
            self.go_on()
            for request in list(self.open):
                if isinstance(request, Send):
                    self.stored.add(*request.chunk)
                    self.answer(Stored(request, self.status(), 1.0))
                elif isinstance(request, TakeHash):
                    self.answer(Hashed(request, "h"))
                elif isinstance(request, Declare):
                    self.declared = True
                    self.answer(Declared(request, self.status()))
                else:
                    self.session = request.session
                    self.answer(Known(request, self.status(), self.missing(), 10, 10))
        assert self.machine.phase is Phase.COMPLETE or isinstance(self.machine.failure, Unreachable)


TestAgainstAModel = Against.TestCase
TestAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class AgainstLate(Against):
    """The same where the hash comes last."""

    LATE = True


TestLateAgainstAModel = AgainstLate.TestCase
TestLateAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
