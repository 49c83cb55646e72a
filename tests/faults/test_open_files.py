"""Either end without files to open: what needs one is tried again, and nothing is taken for gone or broken."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.programs import BIN, Daemon, Server, running, sha256, tree, wait_until

FILES = 24


@pytest.mark.parametrize(
    ("end", "more"), [("daemon", -18), ("daemon", -3), ("daemon", 1), ("daemon", 3), ("server", -5), ("server", 5)]
)
def test_none_left_for_a_while(tmp_path: Path, end: str, more: int) -> None:
    """New files, new folders and a new version come meanwhile; with files to open again all of them arrive."""
    server, box = Server(tmp_path), tmp_path / "box"
    (box / "sub").mkdir(parents=True)
    for name in ("known", "sub/deep"):
        (box / name).write_bytes(name.encode())
    daemon = Daemon(tmp_path, server.url, [{"path": str(box), "rescan": "1s"}])
    with running(server), running(daemon):
        wait_until("both have arrived", lambda: len(tree(server.files())) == 2, 20, daemon.text)
        arrived = server.files() / "box"
        program = daemon if end == "daemon" else server
        limits = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{program.pid}/fd"))
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (used + more, limits[1]))
        for number in range(FILES):
            path = box / "sub" / f"folder{number % 5}" / f"new{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(3000 * number**2 + 10))
        (box / "known").write_bytes(b"known, edited")
        time.sleep(4)  # several scans, and tries of each job
        assert program.running()
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limits)
        expected = {path.relative_to(box): sha256(path) for path in box.rglob("*") if path.is_file()}
        assert len(expected) == FILES + 2

        def received() -> dict[Path, str]:
            return {path.relative_to(arrived): sha256(path) for path in arrived.rglob("*") if path.is_file()}

        wait_until("all have arrived", lambda: received() == expected and not daemon.jobs(), 60, daemon.text)
        assert {job["state"] for job in daemon.ctl("history")["jobs"]} <= {"done", "superseded"}
        assert not [*tmp_path.rglob("*.broken-*"), *tmp_path.rglob("*.damaged-*")]
        assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("command", ["run", "once", "start", "restart"])
def test_too_few_from_the_start(tmp_path: Path, command: str) -> None:
    """It says how many it needs, and what to do, and touches nothing."""
    (tmp_path / "box").mkdir()
    daemon = Daemon(tmp_path, "http://127.0.0.1:9", [{"path": str(tmp_path / "box")}])
    shell = f'ulimit -n 24 && exec "{BIN}/chunkyd" --config "{daemon.config}" {command}'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "chunkyd: Only 24 files may be open at once, chunkyd needs 128. Raise it: ulimit -n 128\n"
    assert not daemon.state.exists()


def test_the_limit_is_raised(tmp_path: Path) -> None:
    """Where the system lets it have more than it was given, it takes that."""
    (tmp_path / "box").mkdir()
    daemon = Daemon(tmp_path, "http://127.0.0.1:9", [{"path": str(tmp_path / "box")}])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        daemon.begin()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        raised = (hard, hard)
        wait_until("raised", lambda: resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == raised, 10, daemon.text)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        daemon.kill()
