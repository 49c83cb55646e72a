"""The states of a job, the legal moves between them, and what is shown: data and pure functions, no I/O.

The main line is queued, hashing, uploading, finishing, done. A user's pause is a flag beside the state, and the whole
queue may be held behind one probe; neither changes a state, both change what is shown (`shown`).
A job that has arrived (the server's `complete` is recorded) is never cancelled or superseded: a newer version waits.
The diagram in docs/jobs.md is `diagram()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    HASHING = "hashing"
    UPLOADING = "uploading"
    FINISHING = "finishing"
    DONE = "done"
    WAITING = "waiting"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Reason(StrEnum):
    """Why a job is paused, failed, cancelled or superseded."""

    NETWORK = "network"  # paused: the server cannot be reached
    SERVER = "server"  # paused: the server is there, but something in it keeps this file from being stored or published
    SERVER_FULL = "server-full"  # paused: the server has no room for this file
    AUTH = "auth"  # paused: the token is not accepted
    ROOT_MISSING = "root-missing"  # paused: the watched folder is not there
    USER = "user"  # shown while the user's pause holds; cancelled by the user
    SOURCE = "source"  # paused: the file cannot be read, or another program has it locked, or is opening it
    REFUSED = "refused"  # failed: the server will not take it
    RESTARTS = "restarts"  # failed: too many sessions were lost
    AFTER_UPLOAD = "after-upload"  # failed: it has arrived, but could not be moved or deleted
    ERROR = "error"  # failed: anything else
    SOURCE_GONE = "source-gone"  # cancelled: the file is no longer there
    CHANGED = "changed"  # superseded: the file has a newer version


RUNNING = frozenset({State.HASHING, State.UPLOADING, State.FINISHING})
IDLE = frozenset({State.QUEUED, State.WAITING, State.PAUSED})
ENDED = frozenset({State.DONE, State.CANCELLED, State.SUPERSEDED})
UNFINISHED = RUNNING | IDLE

_AWAY = frozenset({State.QUEUED, State.WAITING, State.PAUSED, State.FAILED})
_GIVEN_UP = frozenset({State.CANCELLED, State.SUPERSEDED})

MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.HASHING, State.FINISHING}) | _GIVEN_UP,
    State.HASHING: frozenset({State.UPLOADING, State.FINISHING}) | _AWAY | _GIVEN_UP,
    State.UPLOADING: frozenset({State.UPLOADING, State.FINISHING}) | _AWAY | _GIVEN_UP,
    State.FINISHING: frozenset({State.FINISHING, State.DONE}) | _AWAY,
    State.WAITING: frozenset({State.QUEUED}) | _GIVEN_UP,
    State.PAUSED: frozenset({State.QUEUED}) | _GIVEN_UP,
    State.FAILED: frozenset({State.QUEUED}) | _GIVEN_UP,
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
    State.SUPERSEDED: frozenset(),
}


def before(state: State) -> frozenset[State]:
    """The states from which a job may move to this one."""
    return frozenset(earlier for earlier, later in MOVES.items() if state in later)


def shown(
    state: State, reason: Reason | None, *, user_paused: bool, root_missing: bool, held: Reason | None
) -> tuple[State, Reason | None]:
    """State and reason as the user sees them: the user's pause first, then what holds the folder, then the queue."""
    if state not in UNFINISHED:
        return state, reason
    if user_paused:
        return State.PAUSED, Reason.USER
    if state in RUNNING:
        return state, reason
    if root_missing:
        return State.PAUSED, Reason.ROOT_MISSING
    if held is not None:
        return State.PAUSED, held
    return state, reason


def diagram() -> str:
    """The table as a mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for state in State:
        later = [target for target in State if target in MOVES[state] and target is not state]
        lines += [f"    {state} --> {target}" for target in later]
    lines += [f"    {state} --> [*]" for state in State if state in ENDED]
    return "\n".join(lines) + "\n"
