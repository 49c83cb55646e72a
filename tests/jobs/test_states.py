"""The table of states, what is shown, and the page that draws it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.jobs.states import ENDED, IDLE, MOVES, RUNNING, UNFINISHED, Reason, State, before, diagram, shown

PAGE = Path(__file__).parents[2] / "docs" / "jobs.md"


def test_every_state_has_its_moves() -> None:
    """The table speaks of every state, and every state can be reached from queued."""
    assert set(MOVES) == set(State)
    reached = {State.QUEUED}
    while more := {later for state in reached for later in MOVES[state]} - reached:
        reached |= more
    assert reached == set(State)


def test_ends_are_ends() -> None:
    """Nothing leaves done, cancelled or superseded, and everything else can still end."""
    assert {state for state in State if not MOVES[state]} == ENDED
    assert RUNNING | IDLE == UNFINISHED
    assert not UNFINISHED & ENDED


def test_what_has_arrived_is_never_given_up() -> None:
    """No move takes a finishing job to cancelled or superseded."""
    assert not MOVES[State.FINISHING] & {State.CANCELLED, State.SUPERSEDED}
    assert before(State.DONE) == {State.FINISHING}


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_the_users_pause_is_shown_over_all(state: State) -> None:
    """Every unfinished job shows the user's pause, whatever else holds it."""
    found = shown(state, None, user_paused=True, root_missing=True, held=Reason.NETWORK)
    assert found == (State.PAUSED, Reason.USER)


@pytest.mark.parametrize("state", sorted(set(State) - UNFINISHED))
def test_ended_and_failed_jobs_show_themselves(state: State) -> None:
    """A pause does not hide that a job failed or ended."""
    found = shown(state, Reason.SOURCE, user_paused=True, root_missing=True, held=Reason.AUTH)
    assert found == (state, Reason.SOURCE)


def test_a_hold_is_shown_for_jobs_that_stand() -> None:
    """A held queue shows its idle jobs paused, a missing root first; running ones show what they do."""
    assert shown(State.QUEUED, None, user_paused=False, root_missing=False, held=Reason.AUTH)[1] is Reason.AUTH
    assert shown(State.WAITING, None, user_paused=False, root_missing=True, held=Reason.AUTH)[1] is Reason.ROOT_MISSING
    assert shown(State.UPLOADING, None, user_paused=False, root_missing=True, held=Reason.AUTH)[0] is State.UPLOADING


def test_the_page_shows_the_table() -> None:
    """The diagram in docs/jobs.md is the one the table draws."""
    assert f"```mermaid\n{diagram()}```" in PAGE.read_text(encoding="utf-8")


def test_the_page_names_every_state_and_reason() -> None:
    """docs/jobs.md says what each state and each reason means."""
    page = PAGE.read_text(encoding="utf-8")
    assert [word for word in [*State, *Reason] if f"`{word}`" not in page] == []
