"""Interrupted anywhere, it goes on where it was."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.e2e.programs import Daemon, Server, running, sha256, wait_until

MIB = 1 << 20
CHUNK = 2 * MIB
PARALLEL = 4


def big_file(path: Path, size: int) -> str:
    """Random bytes; their hash."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return sha256(path)


def slow_daemon(tmp_path: Path, url: str, box: Path, rate: str = "24MiB/s") -> Daemon:
    """One whose uploads take seconds, so that there is a middle to be interrupted in."""
    return Daemon(
        tmp_path,
        url,
        [{"path": str(box)}],
        uploads={
            "bandwidth": rate,
            "chunk_size": f"{CHUNK // MIB}MiB",
            "parallel_chunks": PARALLEL,
            "retry": {"base": "100ms", "max": "1s"},
        },
    )


def stored_chunks(server: Server) -> list[tuple[int, int]]:
    """Every range the server says it has stored, in the order of its log; twice where it came twice."""
    pattern = re.compile(r"PATCH /uploadChunk 200 .*range=(\d+)-(\d+)/\d+ ")
    return [(int(match[1]), int(match[2])) for match in pattern.finditer(server.text())]


def sent_twice(server: Server) -> int:
    """How many bytes were accepted more than once."""
    return sum(last - first + 1 for first, last in stored_chunks(server)) - sum(
        last - first + 1 for first, last in set(stored_chunks(server))
    )


@pytest.mark.parametrize("victims", ["daemon", "server", "both"])
def test_kill_in_the_middle(tmp_path: Path, victims: str) -> None:
    """kill -9 in the middle of a file: it goes on by itself, and only chunks in flight come twice."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        expected = big_file(box / "big.bin", 96 * MIB)
        wait_until("a third is there", lambda: len(stored_chunks(server)) >= 16, 30, daemon.text)
        if victims in ("daemon", "both"):
            daemon.kill()
        if victims in ("server", "both"):
            server.kill()
            server.start()
        if victims in ("daemon", "both"):
            daemon.start()
        arrived = server.files() / "outbox" / "big.bin"
        wait_until("it arrives", arrived.exists, 60, daemon.text)
        assert sha256(arrived) == expected
        daemon.wait_idle()
        assert sent_twice(server) <= PARALLEL * CHUNK
        if victims != "server":
            job = daemon.ctl("history")["jobs"][0]
            assert daemon.ctl("show", str(job["id"]))["resumedTimes"] >= 1


def test_server_away(tmp_path: Path) -> None:
    """Backoff, then paused for the whole queue, then by itself on again when the server is back."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(daemon):
        (box / "a").write_bytes(b"a")
        (box / "b").write_bytes(b"b")
        wait_until(
            "both jobs are paused for the network",
            lambda: [(job["state"], job["reason"]) for job in daemon.jobs()] == [("paused", "network")] * 2,
            40,
            lambda: str(daemon.jobs()) + daemon.text(),
        )
        assert daemon.ctl("status")["state"] == "offline"
        with running(server):
            wait_until("both arrive", lambda: len(list(server.files().glob("outbox/*"))) == 2, 30, daemon.text)
            daemon.wait_idle()


def test_pause_survives_a_restart(tmp_path: Path) -> None:
    """A user's pause holds old and new jobs over a restart, until the user resumes."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        daemon.ctl("pause")
        (box / "a").write_bytes(b"a")
        wait_until("the job is there", daemon.jobs, 20, daemon.text)
        daemon.stop()
        (box / "b").write_bytes(b"b")
        daemon.start()
        wait_until("both jobs are there", lambda: len(daemon.jobs()) == 2, 20, daemon.text)
        assert {(job["state"], job["reason"]) for job in daemon.jobs()} == {("paused", "user")}
        daemon.ctl("resume")
        wait_until("both arrive", lambda: len(list(server.files().glob("outbox/*"))) == 2, 20, daemon.text)


def test_one_job_is_paused_in_the_middle(tmp_path: Path) -> None:
    """Pause stops a running upload and keeps its session; another file goes past it; resume sends only the rest."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        expected = big_file(box / "big.bin", 48 * MIB)
        wait_until("a part is there", lambda: len(stored_chunks(server)) >= 6, 30, daemon.text)
        job = daemon.jobs()[0]
        daemon.ctl("pause", str(job["id"]))
        (box / "small").write_bytes(b"small")
        wait_until("the small one arrives", (server.files() / "outbox" / "small").exists, 20, daemon.text)
        assert [(each["state"], each["reason"]) for each in daemon.jobs()] == [("paused", "user")]
        daemon.ctl("resume", str(job["id"]))
        arrived = server.files() / "outbox" / "big.bin"
        wait_until("the big one arrives", arrived.exists, 30, daemon.text)
        assert sha256(arrived) == expected
        assert sent_twice(server) <= PARALLEL * CHUNK


def test_session_expires_in_the_middle(tmp_path: Path) -> None:
    """The session's time runs out while the upload is paused: a new session by itself, and the file is whole."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path, limits={"session_ttl": "2s", "reserve": "1MiB"})
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        expected = big_file(box / "big.bin", 32 * MIB)
        wait_until("a part is there", lambda: len(stored_chunks(server)) >= 4, 30, daemon.text)
        daemon.ctl("pause")
        wait_until("the partial is gone", lambda: not list((server.data / "partial").iterdir()), 30, server.text)
        daemon.ctl("resume")
        arrived = server.files() / "outbox" / "big.bin"
        wait_until("it arrives", arrived.exists, 30, daemon.text)
        assert sha256(arrived) == expected


def test_server_disk_full(tmp_path: Path, small_disk) -> None:  # type: ignore[no-untyped-def]
    """507: the job is paused; when room is made it finishes by itself, and what was there is untouched."""
    box = tmp_path / "outbox"
    box.mkdir()
    disk = small_disk("40m")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(24 * MIB))
    server = Server(tmp_path, data_dir=disk / "data")
    daemon = slow_daemon(tmp_path, server.url, box, "unlimited")
    with running(server, daemon):
        (box / "small").write_bytes(b"fits")
        wait_until("the small one arrives", (server.files() / "outbox" / "small").exists, 20, daemon.text)
        expected = big_file(box / "big.bin", 24 * MIB)
        wait_until(
            "the job is paused for the server's disk",
            lambda: [(job["state"], job["reason"]) for job in daemon.jobs()] == [("paused", "server-full")],
            30,
            lambda: str(daemon.jobs()) + daemon.text(),
        )
        ballast.unlink()
        arrived = server.files() / "outbox" / "big.bin"
        wait_until("it arrives", arrived.exists, 60, daemon.text)
        assert sha256(arrived) == expected
        assert (server.files() / "outbox" / "small").read_bytes() == b"fits"


@pytest.mark.parametrize("paused", [False, True], ids=["while sending", "while paused"])
def test_edited_in_the_middle(tmp_path: Path, paused: bool) -> None:
    """The file is edited during its upload, or between pause and resume: the new version arrives, and only that."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    arrived = server.files() / "outbox" / "big.bin"
    with running(server, daemon):
        old = big_file(box / "big.bin", 48 * MIB)
        wait_until("a part is there", lambda: len(stored_chunks(server)) >= 6, 30, daemon.text)
        if paused:
            daemon.ctl("pause")
        with (box / "big.bin").open("r+b") as file:
            file.seek(20 * MIB)
            file.write(b"edited")
        if paused:
            daemon.ctl("resume")
        new = sha256(box / "big.bin")
        wait_until("it arrives", arrived.exists, 60, daemon.text)
        assert sha256(arrived) == new != old
        daemon.wait_idle()
        wait_until("no partial is left", lambda: not list((server.data / "partial").iterdir()), 30, server.text)
