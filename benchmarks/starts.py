"""How long programs take to start: each command from its call to its end."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import ended_within, run_client
from benchmarks.rows import Findings, Row, at_most, row
from tests.e2e.programs import BIN, Daemon

TITLE = "Starting"
ABOUT = (
    "Commands that do next to nothing, from their call to their end, beside a Python that does nothing at all; the "
    "daemon has no jobs. CPU seconds vary less than those by the clock on a machine that does other things too."
)
LIST_SECONDS = 0.1
ROUNDS = 3  # for each pair: they are short
NOBODY = "http://127.0.0.1:9"


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """Three rounds for each pair; one when quick."""
    (work / "outbox").mkdir()
    daemon = Daemon(work, NOBODY, [{"path": str(work / "outbox")}])
    configured = ("--config", str(daemon.config))
    rounds = 1 if quick else ROUNDS * pairs
    daemon.start()  # there has to be a job table that can be read without it
    daemon.stop()
    absent = _measured({"chunkyctl list, no daemon": ("chunkyctl", *configured, "list")}, rounds)
    commands = {
        "python, nothing": ("python", "-c", "pass"),
        "chunkyctl --version": ("chunkyctl", "--version"),
        "chunkyctl list": ("chunkyctl", *configured, "list"),
        "chunky --version": ("chunky", "--version"),
        "chunky upload --help": ("chunky", "upload", "--help"),
        "chunkyd --version": ("chunkyd", "--version"),
        "chunkyd check-config": ("chunkyd", *configured, "check-config"),
        "chunky-server --version": ("chunky-server", "--version"),
    }
    daemon.start()
    try:
        present = _measured(commands, rounds)
    finally:
        ended_within(daemon, 30)
    return Findings(rows=(*present, *absent))


def _measured(commands: dict[str, tuple[str, ...]], rounds: int) -> list[Row]:
    """Two rows for each command; the commands take turns."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (program, *arguments) in commands.items():
            runs[name].append(run_client([str(BIN / program), *arguments]))
    return [each for name, found in runs.items() for each in _rows(name, found)]


def _rows(name: str, runs: list[tuple[float, float]]) -> list[Row]:
    goal = at_most(LIST_SECONDS) if name == "chunkyctl list" else None
    return [
        row(name, "s", [wall for wall, _ in runs], goal=goal, command=name.partition(",")[0]),
        row(f"{name}, processor", "s", [cpu for _, cpu in runs]),
    ]
