"""Signals that come before the daemon stands, and those that another thread of it takes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.programs import Daemon, Program, wait_until


def opened(pid: int, path: Path) -> bool:
    """Whether a process has this file open. What it closes while we look is not it."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(entry, path):
                return True
    return False


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


def test_stopped_by_a_signal_that_another_thread_takes(tmp_path: Path) -> None:
    """The kernel may give a signal to any thread, as after SIGSTOP and SIGCONT: the daemon stops all the same."""
    (tmp_path / "outbox").mkdir()
    daemon = Daemon(tmp_path, "http://127.0.0.1:1", [{"path": str(tmp_path / "outbox")}])
    daemon.start()
    try:
        main = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/stat")
        wait_until("it serves", lambda: "watching" in daemon.text(), about=daemon.text)
        wait_until("its main thread sleeps", lambda: main.read_text().rpartition(")")[2].split()[0] == "S")
        other = min(int(name) for name in os.listdir(main.parent.parent) if int(name) != daemon.pid)
        assert ctypes.CDLL(None).tgkill(daemon.pid, other, signal.SIGTERM) == 0
        wait_until("it has ended", lambda: not daemon.running(), 15, daemon.text)
        assert daemon.process is not None and daemon.process.returncode == 0
    finally:
        daemon.kill()
