"""`make million`: a hundred thousand files through the real programs, and a hundred thousand jobs that lose theirs."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import Daemon, Program, Server, running, tree, wait_until

pytestmark = pytest.mark.long

FOLDERS = 1000
IN_EACH = 100
FILES = FOLDERS * IN_EACH
SIZE = 1024
MIB = 1 << 20


def _fill(outbox: Path) -> None:
    """Files of which no two are alike."""
    for folder in range(FOLDERS):
        path = outbox / f"d{folder}"
        path.mkdir(parents=True)
        for number in range(IN_EACH):
            block = hashlib.sha256(b"%d %d" % (folder, number)).digest()
            (path / f"{number}.dat").write_bytes(block * (SIZE // len(block)))


def _peak(program: Program) -> int:
    """Bytes of memory it has had at most."""
    (line,) = (line for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) << 10


def _jobs(daemon: Daemon) -> Counter[str]:
    jobs = ControlClient(str(daemon.socket)).status().jobs
    return Counter({state: number for state, number in jobs.items() if number})


def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    """All arrive, each once, in flat memory; after a restart not one is sent again."""
    outbox = tmp_path / "outbox"
    _fill(outbox)
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(outbox)}])
    with running(server):
        with running(daemon):
            began = time.monotonic()
            wait_until("all are done", lambda: _jobs(daemon)["done"] == FILES, 600, lambda: f"{_jobs(daemon)}")
            seconds = time.monotonic() - began
            print(f"{FILES} files in {seconds:.1f} s, {FILES / seconds:.0f} a second")
            print(f"daemon {_peak(daemon) >> 20} MiB, server {_peak(server) >> 20} MiB")
            assert _jobs(daemon) == Counter(done=FILES)
            assert tree(server.files() / "outbox") == tree(outbox)
            assert _peak(daemon) < 150 * MIB, _peak(daemon) / MIB
            assert _peak(server) < 150 * MIB, _peak(server) / MIB
        assert "PATCH" not in server.text(), "they go together, never alone"
        asked = server.text().count("server.access")
        with running(daemon):
            daemon.ctl("rescan", "outbox", "--wait")
            assert _jobs(daemon) == Counter(done=FILES)
        sent = [line for line in server.text().splitlines() if "server.access" in line][asked:]
        assert not [line for line in sent if "PATCH" in line or "Batch" in line], sent[:10]


@pytest.mark.parametrize("roots", [1, 2])
def test_a_hundred_thousand_jobs_lose_their_files(tmp_path: Path, roots: int) -> None:
    """A tree that is deleted before it was sent: its jobs are given up, whether or not the folder has had another root.

    The daemon goes on meanwhile: a file beside the tree arrives.
    """
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(outbox)}, {"path": str(tmp_path / "beside")}])
    (tmp_path / "beside").mkdir()
    with running(server, daemon):
        if roots == 2:
            outbox.rename(tmp_path / "before")
            outbox.mkdir()
            (outbox / "known").write_bytes(b"the second root has jobs of its own")
            wait_until("it arrives", (server.files() / "outbox/known").exists, 60, daemon.text)
        daemon.ctl("pause", "--folder", "outbox")
        _fill(outbox / "tree")
        wait_until("all are queued", lambda: _jobs(daemon)["paused"] == FILES, 600, lambda: f"{_jobs(daemon)}")
        began = time.monotonic()
        shutil.rmtree(outbox / "tree")
        print(f"deleted in {time.monotonic() - began:.1f} s")
        (tmp_path / "beside" / "file").write_bytes(os.urandom(3 * MIB))
        wait_until("it arrives", (server.files() / "beside/file").exists, 60, daemon.text)
        print(f"the file beside after {time.monotonic() - began:.1f} s")
        wait_until("all are given up", lambda: _jobs(daemon)["cancelled"] == FILES, 600, lambda: f"{_jobs(daemon)}")
        print(f"given up after {time.monotonic() - began:.1f} s; daemon {_peak(daemon) / MIB:.0f} MiB")
        daemon.ctl("resume", "--folder", "outbox")
        assert _peak(daemon) < 150 * MIB, _peak(daemon) / MIB
        assert not (server.files() / "outbox" / "tree").exists()
