"""What a daemon makes of odd moments: files that change under it, settings that change, a damaged table."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.e2e.programs import BIN, Daemon, Program, Server, running, wait_until
from tests.e2e.test_interruptions import MIB, big_file, slow_daemon


def outbox(tmp_path: Path, name: str = "outbox") -> Path:
    """A folder to be watched."""
    made = tmp_path / name
    made.mkdir()
    return made


def test_once_sends_the_version_that_came_while_it_sent(tmp_path: Path) -> None:
    """A file that changes during its own upload in a single pass arrives in its new version before the pass ends."""
    box = outbox(tmp_path)
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box, "4MiB/s")
    once = Program(tmp_path, "once", "chunkyd", "--config", str(daemon.config), "once", "--json")
    big_file(box / "a", 12 * MIB)
    with running(server):
        once.begin()
        try:
            wait_until("some of it is stored", lambda: "PATCH /uploadChunk 200" in server.text(), 20, once.text)
            (box / "a").write_bytes(b"newer")
            wait_until("the pass ends", lambda: not once.running(), 60, once.text)
        finally:
            once.kill()
        assert once.process is not None
        assert once.process.returncode == 0, once.text()
        assert (server.files() / "outbox" / "a").read_bytes() == b"newer"


def test_a_damaged_job_table_is_told_until_it_is_removed(tmp_path: Path) -> None:
    """`status` names the table that was moved aside, over restarts too, until somebody has taken it away."""
    box = outbox(tmp_path)
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    daemon.state.mkdir()
    (daemon.state / "jobs.sqlite3").write_bytes(os.urandom(20_000))
    with running(server):
        for _ in range(2):
            with running(daemon):
                seen = daemon.ctl("status")
                assert seen["state"] == "degraded"
                assert "jobs.sqlite3.broken-" in seen["problems"][0]["what"]
                assert seen["problems"][0]["mend"]
        with running(daemon):
            for path in daemon.state.glob("jobs.sqlite3.broken-*"):
                path.unlink()
            assert daemon.ctl("status")["problems"] == []


def test_a_changed_priority_counts_for_what_is_queued(tmp_path: Path) -> None:
    """A folder's new priority holds for jobs that wait already: after a reload, and after a restart."""
    boxes = {name: outbox(tmp_path, name) for name in ("low", "high")}
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)} for box in boxes.values()])

    def priorities() -> dict[str, int]:
        return {job["folder"]: daemon.ctl("show", str(job["id"]))["priority"] for job in daemon.jobs()}

    with running(server, daemon):
        daemon.ctl("pause")
        for box in boxes.values():
            (box / "a").write_bytes(b"a")
        wait_until("both are queued", lambda: len(daemon.jobs()) == 2, 20, daemon.text)
        daemon.settings["folders"][1]["priority"] = 7
        daemon.write_config()
        daemon.ctl("reload")
        assert priorities() == {"low": 0, "high": 7}
        daemon.stop()
        daemon.settings["folders"][0]["priority"] = 9
        daemon.write_config()
        daemon.start()
        assert priorities() == {"low": 9, "high": 7}


def test_a_rescan_that_is_waited_for_ends_with_the_daemon(tmp_path: Path) -> None:
    """`rescan --wait` comes back, with a failure, when the daemon is stopped or its folder is not there."""
    box = outbox(tmp_path)
    daemon = Daemon(tmp_path, "http://127.0.0.1:1", [{"path": str(box)}])
    with running(daemon):
        box.rename(tmp_path / "away")
        done = subprocess.run(
            [BIN / "chunkyctl", "--config", daemon.config, "rescan", "--wait", "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, json.loads(done.stdout)["finished"]) == (1, False)
