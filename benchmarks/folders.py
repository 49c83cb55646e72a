"""A hundred thousand files in ten thousand folders: start to watching, and looking through them again."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.filled import know_tree, open_state
from benchmarks.harness import cpu_seconds, ended_within, resident, settled_start
from benchmarks.rows import Findings, at_most, row
from chunkyd.control.client import ControlClient
from tests.e2e.programs import Daemon, wait_until

TITLE = "A hundred thousand files"
ABOUT = "100,000 files in 10,000 folders, all of them sent before: nothing is to be done but to watch."
START_SECONDS, RESCAN_SECONDS = 5.0, 2.0
FOLDER = "outbox"


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """A tenth of it when quick."""
    folders = 1_000 if quick else 10_000
    root = work / FOLDER
    _plant(root, folders)
    daemon = Daemon(work, "http://127.0.0.1:9", [{"path": str(root)}])
    tables = open_state(daemon.state)
    know_tree(tables, FOLDER, root)
    tables.close()
    starts, watching, rescans, cpu, memory = [], [], [], [], []
    for _ in range(min(pairs, 3)):
        try:
            begun = time.monotonic()
            starts.append(settled_start(daemon))
            control = ControlClient(str(daemon.socket))
            wait_until("everything is watched", lambda: _watched(control), 120, daemon.text)  # noqa: B023  # not kept
            watching.append(time.monotonic() - begun)
            before, moment = cpu_seconds(daemon.pid), time.monotonic()
            control.rescan(FOLDER, wait=True, timeout=120)
            rescans.append(time.monotonic() - moment)
            cpu.append(cpu_seconds(daemon.pid) - before)
            memory.append(resident(daemon.pid))
            view = control.status().folders[0]
            if view.files != 10 * folders or control.status().jobs.get("queued"):
                raise RuntimeError(f"{view.files} files were found, and {control.status().jobs} are to be done")
        finally:
            ended_within(daemon, 30)
    return Findings(
        rows=(
            row("start to watching", "s", watching, goal=at_most(START_SECONDS), command="chunkyd run"),
            row("start to the first answer", "s", starts),
            row(
                "rescan, nothing changed", "s", rescans, goal=at_most(RESCAN_SECONDS), command="chunkyctl rescan --wait"
            ),
            row("rescan, processor", "s", cpu),
            row("memory of the daemon", "MiB", memory, goal=at_most(100)),
        )
    )


def _plant(root: Path, folders: int) -> None:
    for number in range(folders):
        folder = root / f"{number // 100:03}" / f"{number % 100:02}"
        folder.mkdir(parents=True)
        for each in range(10):
            os.close(os.open(folder / f"file{each}", os.O_WRONLY | os.O_CREAT, 0o644))
    time.sleep(1)  # all of it is older than the settle time


def _watched(control: ControlClient) -> bool:
    view = control.status().folders[0]
    return view.last_scan is not None and view.state != "scanning"
