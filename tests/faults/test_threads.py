"""A daemon that may begin no more threads (TasksMax=, ulimit -u): what needs one waits, says why, and goes on later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import Daemon, Server, running, sha256, wait_until

# Loaded by the daemon's Python before all else. While the file is there no thread begins: as the system would have it,
# and this for any user, root too, whom no limit of threads holds.
REFUSING = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor

def refuse(owner, name, flag, after=1000):
    real, count = getattr(owner, name), 0
    def refused(*arguments, **named):
        nonlocal count
        count += 1
        if os.path.exists(flag) or count > after:
            raise RuntimeError("can't start new thread")
        return real(*arguments, **named)
    setattr(owner, name, refused)

refuse(threading.Thread, "start", os.environ["NO_THREADS"], int(os.environ.get("NO_THREADS_AFTER", 1000)))
refuse(ThreadPoolExecutor, "submit", os.environ["NO_SUBMIT"])
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One that watches `box`, with a server that runs; its threads are refused by the files `threads` and `submit`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(REFUSING)
    server, box = Server(tmp_path), tmp_path / "box"
    box.mkdir()
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    daemon.env |= {
        "PYTHONPATH": str(tmp_path / "site"),
        "NO_THREADS": str(tmp_path / "threads"),
        "NO_SUBMIT": str(tmp_path / "submit"),
    }
    with running(server, daemon):
        wait_until("all its own threads run", lambda: "watching box" in daemon.text(), 20, daemon.text)
        wait_until("it answers", lambda: daemon.ctl("status")["folders"][0]["lastScan"], 20, daemon.text)
        yield daemon


def _arrive(daemon: Daemon, box: Path) -> None:
    expected = {path.name: sha256(path) for path in box.iterdir()}
    arrived = box.parent / "server-data" / "files" / "local" / "box"

    def received() -> dict[str, str]:
        return {path.name: sha256(path) for path in arrived.iterdir()} if arrived.exists() else {}

    wait_until("all have arrived", lambda: received() == expected and not daemon.jobs(), 60, daemon.text)


def test_no_thread_to_send_with(daemon: Daemon, tmp_path: Path) -> None:
    """Files that go alone and together: their jobs wait, with the reason; then all arrive."""
    box = tmp_path / "box"
    (tmp_path / "threads").touch()
    for number in range(6):
        (box / f"small{number}").write_bytes(os.urandom(1000))
        (box / f"big{number}").write_bytes(os.urandom(3_000_000))
    said = "No thread can be started: can't start new thread. Allow more: TasksMax=, ulimit -u"
    wait_until(
        "the jobs of the big ones wait",
        lambda: sum(job["error"] == said and job["state"] == "waiting" for job in daemon.jobs()) >= 6,
        30,
        daemon.text,
    )
    (tmp_path / "threads").unlink()
    _arrive(daemon, box)
    assert "Traceback" not in daemon.text()


def test_a_worker_that_never_begins(daemon: Daemon, tmp_path: Path) -> None:
    """What is handed to the pool and gets lost is taken back: the workers are free again, and the jobs go on."""
    box = tmp_path / "box"
    (tmp_path / "submit").touch()
    for number in range(4):
        (box / f"big{number}").write_bytes(os.urandom(3_000_000))
    wait_until("it is noticed", lambda: "no worker began it" in daemon.text(), 40, daemon.text)
    (tmp_path / "submit").unlink()
    _arrive(daemon, box)


@pytest.mark.parametrize("begun", [0, 2, 3, 4, 12, 15, 17, 19])
def test_no_thread_from_the_start(daemon: Daemon, begun: int) -> None:
    """Wherever in its start the threads come to an end, it does not start, and says why, in words."""
    daemon.stop()
    daemon.env["NO_THREADS_AFTER"] = str(begun)
    before = len(daemon.text())
    daemon.begin()
    wait_until("it has ended", lambda: not daemon.running(), 20, daemon.text)
    assert daemon.process is not None and daemon.process.returncode == 1
    said = daemon.text()[before:]
    assert "No thread can be started" in said and "Traceback" not in said
