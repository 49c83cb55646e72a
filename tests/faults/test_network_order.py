"""What is held up on its way comes after the newer version that has overtaken it, and must not win."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.e2e.programs import BIN, Daemon, Program, Server, run, running, wait_until
from tests.faults.stage import Stage
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Fault, Hold, Swallow


class _Holding:
    """A plan that holds the first request of a path, and lets all others pass."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.go_on = threading.Event()
        self.held = threading.Event()

    def __call__(self, seen: Seen) -> Fault | None:
        if seen.path != self.path or self.held.is_set():
            return None
        self.held.set()
        return Hold(self.go_on)


def _contents(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() if file.exists() else b"" for file in files]


def _is_refused(server: Server) -> bool:
    return "problem=session-expired" in server.text()


@pytest.mark.parametrize(("path", "files"), [("/initiateUploadSession", 1), ("/uploadBatch", 50)])
def test_a_request_that_was_held_up(tmp_path: Path, path: str, files: int) -> None:
    """The daemon gives a request up when its file changes; it reaches the server after the newer version's."""
    (tmp_path / "outbox").mkdir()
    (tmp_path / "making").mkdir()
    for number in range(files):
        (tmp_path / "making" / str(number)).touch()
    server, holding = Server(tmp_path), _Holding(path)
    with running(server), FaultProxy(server.port) as proxy:
        proxy.plan = holding
        daemon = Daemon(tmp_path, proxy.url, [{"path": str(tmp_path / "outbox")}])
        with running(daemon):
            made = (tmp_path / "making").rename(tmp_path / "outbox" / "made")
            wait_until("it is held", holding.held.is_set, 30, daemon.text)
            newer = [os.urandom(1000) for _ in range(files)]
            for number, content in enumerate(newer):
                (made / str(number)).write_bytes(content)
            published = [server.files() / "outbox" / "made" / str(number) for number in range(files)]
            wait_until("the newer ones arrive", lambda: _contents(published) == newer, 60, daemon.text)
            daemon.wait_idle()
            holding.go_on.set()
            wait_until("the older one is refused", lambda: _is_refused(server), 30, server.text)
            assert _contents(published) == newer


def test_chunky_interrupted_and_run_again(tmp_path: Path) -> None:
    """The same between two runs of the command."""
    file, server, holding = tmp_path / "file", Server(tmp_path), _Holding("/initiateUploadSession")
    file.touch()
    with running(server), FaultProxy(server.port) as proxy:
        proxy.plan = holding
        upload = ("chunky", "upload", str(file), "--to", proxy.url, "--state", str(tmp_path / "state.sqlite3"))
        first = Program(tmp_path, "first", str(BIN / upload[0]), *upload[1:])
        first.begin()
        wait_until("it is held", holding.held.is_set, 30, first.text)
        first.stop()
        newer = os.urandom(1000)
        file.write_bytes(newer)
        run(*upload)
        holding.go_on.set()
        wait_until("the older one is refused", lambda: _is_refused(server), 30, server.text)
        assert (server.files() / "file").read_bytes() == newer


def test_chunky_and_an_older_file_under_the_same_name(tmp_path: Path) -> None:
    """The later command is the later wish, though its file is the older one; the server needs no byte of either."""
    older, newer = tmp_path / "older", tmp_path / "newer"
    older.write_bytes(b"older" * 1000)
    newer.write_bytes(b"newer" * 1000)
    server, holding = Server(tmp_path), _Holding("/initiateUploadSession")
    with running(server), FaultProxy(server.port) as proxy:
        upload = ("chunky", "upload", "--state", str(tmp_path / "state.sqlite3"), "--to", proxy.url)
        for file in (older, newer):
            run(*upload, str(file))
        proxy.plan = holding
        first = Program(tmp_path, "first", str(BIN / upload[0]), *upload[1:], str(newer), "--name", "current")
        first.begin()
        wait_until("it is held", holding.held.is_set, 30, first.text)
        first.stop()
        run(*upload, str(older), "--name", "current")
        holding.go_on.set()
        wait_until("the first one is refused", lambda: _is_refused(server), 30, server.text)
        assert (server.files() / "current").read_bytes() == older.read_bytes()


def test_a_session_that_nobody_knows(tmp_path: Path) -> None:
    """The answers to an initiate are lost, then the file: one session holds its space, until it is expired by hand."""
    with Stage(tmp_path) as stage, FaultProxy(stage.server.port) as proxy:
        stage.daemon.settings["server"]["url"] = proxy.url
        stage.daemon.write_config()
        proxy.plan = lambda seen: Swallow() if seen.path == "/initiateUploadSession" else None
        path = stage.put("film.mov")
        stage.start_server()
        stage.daemon.start()
        wait_until("it was asked for twice", lambda: len(proxy.requests) > 2, 60, stage.daemon.text)
        path.unlink()
        wait_until("the job is given up", lambda: not stage.jobs(), 60, stage.daemon.text)
        ((session_id, *_),) = stage.sessions()
        assert stage.partials() == [session_id]
        assert stage.said_stored() == []
        stage.server.command("sessions", "expire", session_id)
        stage.at_rest({}, states=("cancelled",))
