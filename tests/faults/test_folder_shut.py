"""A folder of the server that takes no names for a while: it is told, nothing else waits for it, and no byte is sent
twice."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import BIN, Daemon, Server, running, wait_until

SIZE = 3 << 20  # more than goes with others in one request
FILES = 10  # of each size more than the daemon's workers


@contextlib.contextmanager
def shut(folder: Path) -> Iterator[None]:
    """Nothing can be made in it for the length of a block: as with a wrong owner, a quota or a bad block of its."""
    if subprocess.run(["chattr", "+i", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this file system, or this user, has no immutable folders")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def told(daemon: Daemon) -> list[dict[str, Any]]:
    """The jobs that say that the server cannot put their file in its place."""
    return [job for job in daemon.jobs() if "Operation not permitted" in (job["error"] or "")]


def test_others_go_on(tmp_path: Path) -> None:
    """Files for the folder give their workers back, and say why; others arrive; opened, all do, none sent again."""
    expected = {str(number): bytes([number]) * (SIZE if number % 2 else 1000) for number in range(FILES)}
    box = tmp_path / "outbox"
    for name in ("shut", "open"):
        (box / name).mkdir(parents=True)
    server = Server(tmp_path)
    uploads = {"retry": {"base": "200ms", "max": "1s"}}
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], uploads=uploads)
    arrived = server.files() / "outbox"
    (box / "shut/first").write_bytes(b"1")
    with running(server, daemon):
        wait_until("the folder is there", (arrived / "shut/first").exists, 30, daemon.text)
        with shut(arrived / "shut"):
            for name, content in expected.items():
                (box / "shut" / name).write_bytes(content)
            wait_until("it is told", lambda: len(told(daemon)) == FILES, 60, daemon.text)
            (box / "open/film").write_bytes(bytes(SIZE))
            wait_until("another arrives", (arrived / "open/film").exists, 30, daemon.text)
            reasons = {(job["state"], job["reason"]) for job in told(daemon)}
            assert reasons <= {("waiting", None), ("paused", "server")}
            said = server.text()
        daemon.wait_idle(60)
    warned = re.findall(r"session (\w+): not finished yet, trying again: \[Errno 1\]", said)
    assert len(warned) == len(set(warned)) == said.count("not finished yet") >= FILES, "each session once"
    for request in ("PATCH /uploadChunk", "POST /uploadBatch"):
        assert server.text().count(request) == said.count(request) > 0
    assert {path.name: path.read_bytes() for path in (arrived / "shut").iterdir()} == {"first": b"1", **expected}


def test_the_command_says_so(tmp_path: Path) -> None:
    """`chunky upload` tells the reason, ends as one that can go on, and the same again sends nothing."""
    server, film = Server(tmp_path), tmp_path / "film"
    film.write_bytes(bytes(SIZE))
    folder = server.files() / "shut"
    command = [str(BIN / "chunky"), "upload", str(film), "--name", "shut/film", "--to", server.url]
    command += ["--state", str(tmp_path / "state.sqlite3")]
    with running(server):
        folder.mkdir(parents=True)
        with shut(folder):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 69, done.stderr
            assert "Operation not permitted" in done.stderr and str(tmp_path / "server-data") not in done.stderr
        sent = server.text().count("PATCH /uploadChunk")
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert server.text().count("PATCH /uploadChunk") == sent
    assert (folder / "film").read_bytes() == bytes(SIZE)
