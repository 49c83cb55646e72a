"""A job table with a million rows: what the daemon does with it, beside an empty one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.filled import fill, open_state, queue_of
from benchmarks.harness import ended_within, run_client, settled_start
from benchmarks.rows import Findings, Row, at_most, row
from chunkyd.control.client import ControlClient
from tests.e2e.programs import BIN, Daemon

TITLE = "A million jobs"
ABOUT = (
    "A job table with a million rows, 100,000 of them queued (and paused while the daemon is measured), the others "
    "done. `chunkyctl list` shows the first page of 100."
)
START_SECONDS, LIST_SECONDS, CLAIM_MILLISECONDS = 1.0, 0.1, 1.0
FOLDER = "outbox"
CLAIMS = 200


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """A million rows, a hundred thousand queued; 20,000 and 2,000 when quick."""
    rows, waiting = (20_000, 2_000) if quick else (1_000_000, 100_000)
    (work / FOLDER).mkdir()
    full = Daemon(work, "http://127.0.0.1:9", [{"path": str(work / FOLDER)}], "full")
    empty = Daemon(work, "http://127.0.0.1:9", [{"path": str(work / FOLDER)}], "empty")
    claims = _claims(full, rows, waiting)
    full_figures, empty_figures = _Figures(), _Figures()
    for _ in range(pairs):
        full_figures.measure(full)
        empty_figures.measure(empty)
    return Findings(
        rows=(
            *full_figures.rows("", START_SECONDS, LIST_SECONDS),
            row(
                "claim of a job",
                "ms",
                claims,
                goal=at_most(CLAIM_MILLISECONDS),
                durable="over a crash, not a power cut",
            ),
            *empty_figures.rows(", empty table", None, None),
        )
    )


class _Figures:
    """What is measured of a daemon, run for run."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._lists: list[float] = []
        self._answers: list[float] = []

    def measure(self, daemon: Daemon) -> None:
        """Start it, ask it, stop it."""
        try:
            self._starts.append(settled_start(daemon))
            control = ControlClient(str(daemon.socket))
            self._answers.append(_seconds_of(lambda: control.jobs(limit=100)))
            command = [str(BIN / "chunkyctl"), "--config", str(daemon.config), "list", "--limit", "100"]
            self._lists.append(run_client(command)[0])
        finally:
            ended_within(daemon, 30)

    def rows(self, which: str, start: float | None, listing: float | None) -> list[Row]:
        """Three rows, with goals where there are any."""
        return [
            row(
                f"start of chunkyd{which}",
                "s",
                self._starts,
                goal=at_most(start) if start else None,
                verifies="the table (quick_check)",
                command="chunkyd run",
                note="until its control socket answers",
            ),
            row(
                f"chunkyctl list{which}",
                "s",
                self._lists,
                goal=at_most(listing) if listing else None,
                command="chunkyctl list --limit 100",
                note="the program's own start included",
            ),
            row(f"the daemon's answer alone{which}", "s", self._answers),
        ]


def _claims(daemon: Daemon, rows: int, waiting: int) -> list[float]:
    """Milliseconds of each of some claims, in a table that is then paused as a whole."""
    tables = open_state(daemon.state)
    fill(tables, FOLDER, rows, waiting)
    queue = queue_of(tables)
    found = []
    for _ in range(CLAIMS):
        start = time.perf_counter()
        job = queue.claim("benchmark", (FOLDER,))
        found.append(1000 * (time.perf_counter() - start))
        assert job is not None
    queue.recover("another")
    queue.pause_user()
    tables.close()
    return found


def _seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
