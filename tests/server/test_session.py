"""The rules of one live session, against a model that is a plain array of bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from chunkyd.catalog.base import SessionRecord, SessionState
from chunkyd.errors import Problem
from chunkyd.server.ledger import Ledger
from chunkyd.server.session import Claim, LiveSession

TOTAL = 60
MAX_CHUNK = 25


def record(total: int = TOTAL, **changes: object) -> SessionRecord:
    """A session's record."""
    values: dict[str, object] = {
        "session_id": "s",
        "sequence": 1,
        "user": "u",
        "file_hash": "0" * 64,
        "total_bytes": total,
        "target": b"t",
        "state": SessionState.RECEIVING,
        "created": 0.0,
        "expires_at": 100.0,
    }
    return SessionRecord(**{**values, **changes})  # type: ignore[arg-type]


class SessionMachine(RuleBasedStateMachine):
    """Chunks of chance: admitted, written, committed, failed, in any order."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.session = LiveSession(record())
        self.stored = bytearray(TOTAL)  # 1 where stored
        self.claimed = bytearray(TOTAL)  # 1 where somebody writes
        self.ledger = Ledger(0)
        self.ledger.count(self.session)

    @rule(
        target=claims, start=st.integers(0, TOTAL), size=st.integers(1, TOTAL), total=st.sampled_from([TOTAL] * 9 + [9])
    )
    def admit(self, start: int, size: int, total: int) -> Claim | None:
        chunk = (start, start + size)
        wanted = {at for at in range(*chunk) if at < TOTAL and not self.stored[at]}
        if total != TOTAL or start + size > TOTAL:
            expected = "chunk-out-of-bounds"
        elif size > MAX_CHUNK:
            expected = "chunk-too-large"
        elif wanted and any(self.claimed[at] for at in wanted):
            expected = "chunk-in-progress"
        else:
            expected = ""
        try:
            claim = self.session.admit(chunk, total, MAX_CHUNK)
        except Problem as problem:
            assert problem.name == expected
            return None
        assert not expected
        assert (claim is None) == (not wanted)
        if claim is None:
            return None
        assert {at for piece in claim.writes for at in range(*piece)} == wanted
        for at in wanted:
            self.claimed[at] = 1
        self.session.claim(claim)
        return claim

    @rule(claim=consumes(claims), stores=st.booleans(), checked=st.booleans())
    def finish(self, claim: Claim | None, stores: bool, checked: bool) -> None:
        if claim is None:
            return
        places = [at for piece in claim.writes for at in range(*piece)]
        if stores:
            assert not any(self.stored[at] for at in places), "a stored byte would be written again"
            self.session.check([claim.chunk])
            self.session.store([claim.chunk], 200.0)
            for at in places:
                self.stored[at] = 1
        elif checked:
            self.session.check([claim.chunk])
            self.session.uncheck(claim.writes)
        self.session.release(claim)
        self.ledger.count(self.session)
        for at in places:
            self.claimed[at] = 0

    @invariant()
    def agrees(self) -> None:
        missing = {at for piece in self.session.missing() for at in range(*piece)}
        assert missing == {at for at in range(TOTAL) if not self.stored[at]}
        assert self.session.all_stored == all(self.stored)
        assert self.session.status() == ("verifying" if all(self.stored) else "incomplete")
        assert self.ledger.owed == TOTAL - sum(self.stored)
        claimed = {at for piece in self.session.claimed for at in range(*piece)}
        assert {at for at in claimed if not self.stored[at]} == {at for at in range(TOTAL) if self.claimed[at]}
        assert self.session.checked.total >= self.session.stored.total


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_fragments_are_limited_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a chunk that would make one more range is refused, one that joins a range is taken."""
    monkeypatch.setattr("chunkyd.server.session.MAX_STORED_RANGES", 3)
    session = LiveSession(record(), [(0, 1), (10, 11)])
    claim = session.admit((20, 21), TOTAL, MAX_CHUNK)
    assert claim is not None
    session.claim(claim)
    with pytest.raises(Problem, match="separate ranges"):
        session.admit((30, 31), TOTAL, MAX_CHUNK)  # the one in progress may be stored before it
    session.store(claim.writes, 1.0)
    session.release(claim)
    with pytest.raises(Problem, match="separate ranges"):
        session.admit((30, 31), TOTAL, MAX_CHUNK)
    assert session.admit((21, 22), TOTAL, MAX_CHUNK) is not None
    assert session.admit((5, 10), TOTAL, MAX_CHUNK) is not None


@pytest.mark.parametrize(("now", "busy", "over"), [(99.9, 0, False), (100.0, 0, True), (500.0, 1, False)])
def test_expiry_is_decided_by_deadline_and_business(now: float, busy: int, over: bool) -> None:
    """A session expires at its deadline, and never while something is under way."""
    session = LiveSession(record())
    session.busy = busy
    assert session.expired(now) is over


def test_renewal_stops_at_the_absolute_age() -> None:
    """A stored chunk renews the deadline by the TTL, but not past the age where one is set."""
    session = LiveSession(record(created=0.0))
    assert session.renewed(50.0, 100.0, None) == 150.0
    assert session.renewed(50.0, 100.0, 120.0) == 120.0


@pytest.mark.parametrize("state", [SessionState.COMPLETE, SessionState.COPYING, SessionState.PUBLISHING])
def test_nothing_is_missing_once_the_bytes_are_there(state: SessionState) -> None:
    """While it is copied, published, or complete, a session asks for nothing, and every chunk counts as stored."""
    session = LiveSession(record(state=state))
    assert session.missing() == []
    assert session.admit((0, 5), TOTAL, MAX_CHUNK) is None


def test_a_dead_session_says_so_to_every_chunk() -> None:
    """Bounds come first, then digest-mismatch, whatever the range."""
    session = LiveSession(record(state=SessionState.DEAD))
    with pytest.raises(Problem) as caught:
        session.admit((0, 5), TOTAL, MAX_CHUNK)
    assert caught.value.name == "digest-mismatch"
    with pytest.raises(Problem) as caught:
        session.admit((0, TOTAL + 1), TOTAL, MAX_CHUNK)
    assert caught.value.name == "chunk-out-of-bounds"


def test_the_ledger_gives_no_byte_twice() -> None:
    """Two sessions being opened at once share what is free; what fails gives its room back."""
    ledger = Ledger(reserve=10)
    with ledger.opening(60, free=100):
        assert ledger.available(100) == 30
        with pytest.raises(Problem) as caught, ledger.opening(31, free=100):
            pass
        assert dict(caught.value.members) == {"requiredBytes": 31, "availableBytes": 30}
        assert caught.value.retry_after
    assert ledger.available(100) == 90
    with contextlib.suppress(ZeroDivisionError), ledger.opening(60, free=100):
        raise ZeroDivisionError
    assert ledger.owed == 0


def test_space_set_aside_by_the_file_system_is_not_counted_again() -> None:
    """A reserved session owes nothing: the disk's own count of what is free holds it already."""
    ledger = Ledger(0)
    session = LiveSession(record(reserved=True))
    ledger.count(session)
    assert ledger.owed == 0
    ledger.check_chunk(session, 50, free=0)
