"""Signals that come before the daemon stands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.programs import Program, wait_until


def opened(pid: int, path: Path) -> bool:
    """Whether a process has this file open."""
    folder = Path(f"/proc/{pid}/fd")
    return any(os.path.samefile(entry, path) for entry in folder.iterdir() if entry.exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_before_the_settings_are_read(tmp_path: Path, number: signal.Signals) -> None:
    """A stop in the first moments is a clean end, and a reload before it no end at all."""
    config = tmp_path / "fifo.yaml"
    os.mkfifo(config)
    daemon = Program(tmp_path, "daemon", "chunkyd", "--config", str(config), "run")
    daemon.begin()
    try:
        kept_open = os.open(config, os.O_RDWR)  # a reader that comes finds a writer that says nothing
        wait_until("it reads its settings", lambda: opened(daemon.pid, config), about=daemon.text)
        os.kill(daemon.pid, signal.SIGHUP)
        os.kill(daemon.pid, number)
        wait_until("it has ended", lambda: not daemon.running())
        os.close(kept_open)
    finally:
        daemon.kill()
    assert daemon.process is not None
    assert (daemon.process.returncode, daemon.text()) == (0, "")
