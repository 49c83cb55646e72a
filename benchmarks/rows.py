"""What a benchmark hands to the report: rows, each a figure with its goal and its peer. Data only, kept as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

Verdict = Literal["reached", "missed"]


class Goal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a row is to reach: a limit, of the figure itself in its unit or of its ratio to the peer's."""

    limit: float
    least: bool = False  # at least; else at most
    of_peer: bool = False

    def verdict(self, figure: float, ratio: float | None) -> Verdict | None:
        """None where the goal is a ratio and the peer could not be had."""
        compared = ratio if self.of_peer else figure
        if compared is None:
            return None
        return "reached" if (compared >= self.limit if self.least else compared <= self.limit) else "missed"


class Peer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom a row is compared with, and what that one reached in the same run, in the row's unit."""

    name: str
    figure: float


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure: the median of `runs`, in `unit`.

    `verifies` and `durable` say what the one who is measured had done when the clock stopped. `sending_cpu` and
    `receiving_cpu` are processor seconds for each GiB of content, where content is moved. `command` is what was timed.
    """

    name: str
    figure: float
    unit: str
    runs: tuple[float, ...] = ()
    goal: Goal | None = None
    peer: Peer | None = None
    verifies: str = ""
    durable: str = ""
    sending_cpu: float | None = None
    receiving_cpu: float | None = None
    command: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of the peer's; None where there is none."""
        return self.figure / self.peer.figure if self.peer is not None and self.peer.figure else None

    @property
    def verdict(self) -> Verdict | None:
        """None where there is no goal, or not what it is a ratio to."""
        return self.goal.verdict(self.figure, self.ratio) if self.goal is not None else None


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: points (x, y), x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart; both axes begin where their data do, and are logarithmic where said so."""

    name: str  # of its file
    title: str
    across: str
    up: str
    series: tuple[Series, ...]
    log_across: bool = False
    log_up: bool = False


class Findings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that one benchmark found. `missing`: whom or what could not be had, and why, in a sentence each."""

    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    processor: str
    processors: int
    memory: str
    kernel: str
    python: str
    file_system: str
    versions: dict[str, str]  # program → version, of those that are installed


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's findings, as they are kept. `load`: the machine's, before it began."""

    name: str
    title: str
    about: str
    quick: bool
    command: str
    date: str
    seconds: float
    load: float
    machine: Machine
    findings: Findings


def row(
    name: str,
    unit: str,
    runs: Sequence[float],
    *,
    goal: Goal | None = None,
    peer: Peer | None = None,
    verifies: str = "",
    durable: str = "",
    command: str = "",
    note: str = "",
) -> Row:
    """A row whose figure is the median of its runs."""
    return Row(
        name=name,
        figure=statistics.median(runs),
        unit=unit,
        runs=tuple(runs),
        goal=goal,
        peer=peer,
        verifies=verifies,
        durable=durable,
        command=command,
        note=note,
    )


def at_most(limit: float) -> Goal:
    """Of the figure itself, in the row's unit."""
    return Goal(limit=limit)


def at_most_of_peer(limit: float) -> Goal:
    """Of the ratio to the peer's figure."""
    return Goal(limit=limit, of_peer=True)


def at_least_of_peer(limit: float) -> Goal:
    """Of the ratio to the peer's figure."""
    return Goal(limit=limit, of_peer=True, least=True)
