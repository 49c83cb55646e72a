"""The life of a daemon: disks that come and go, tokens, reloads, second instances, full state folders, ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import BIN, Daemon, Program, Server, free_port, run, running, sha256, wait_until
from tests.e2e.test_interruptions import MIB, big_file, slow_daemon, stored_chunks

ROOT_MISSING = ("paused", "root-missing")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A folder to be watched."""
    made = tmp_path / "outbox"
    made.mkdir()
    return made


def states(daemon: Daemon) -> set[tuple[str, str | None]]:
    """State and reason of every unfinished or failed job."""
    return {(job["state"], job["reason"]) for job in daemon.jobs()}


def wait_states(daemon: Daemon, *wanted: tuple[str, str | None], seconds: float = 20.0) -> None:
    """Until all jobs are in these states, and each of the states is some job's."""
    wait_until(f"{wanted}", lambda: states(daemon) == set(wanted), seconds, lambda: str(daemon.jobs()) + daemon.text())


def no_trace(*programs: Program) -> None:
    """Nobody was shown a trace."""
    for program in programs:
        assert "Traceback" not in program.text(), program.text()


def mount(*arguments: str) -> None:
    """mount(8)."""
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def a_disk(point: Path) -> Iterator[Callable[[bool], None]]:
    """A disk at `point`; the function unplugs it (False) and plugs it in again (True), with all that is on it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    aside = point.parent / "disk-aside"
    aside.mkdir()
    mount("-t", "tmpfs", "tmpfs", str(aside))

    def plug(there: bool) -> None:
        if there:
            mount("--bind", str(aside), str(point))
        else:
            subprocess.run(["umount", "--lazy", str(point)], check=True)

    plug(True)
    try:
        yield plug
    finally:
        for place in (point, aside):
            subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


def test_disk_unplugged_in_the_middle(tmp_path: Path, box: Path) -> None:
    """Jobs of a disk that is pulled are held, over a restart too, and go on where they were when it is back."""
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with a_disk(box) as plug, running(server, daemon):
        for number in range(4):
            big_file(box / f"f{number}", 24 * MIB)
        wait_until("a part is there", lambda: len(stored_chunks(server)) >= 4, 30, daemon.text)
        plug(False)
        (box / "on-the-mount-point").write_bytes(b"another folder")
        wait_until("the file on the mount point arrives", (server.files() / "outbox" / "on-the-mount-point").exists, 20)
        wait_states(daemon, ROOT_MISSING)
        daemon.stop()
        daemon.start()
        wait_states(daemon, ROOT_MISSING)
        plug(True)
        daemon.wait_idle(60)
        for number in range(4):
            assert sha256(server.files() / "outbox" / f"f{number}") == sha256(box / f"f{number}")
        assert {job["state"] for job in daemon.ctl("history")["jobs"]} == {"done"}
        no_trace(daemon, server)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_root_renamed_away_and_back(tmp_path: Path, box: Path, restart: bool) -> None:
    """A root that is renamed is missing, not emptied; its jobs go on when it has its name again."""
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box, "4MiB/s")
    with running(server, daemon):
        for number in range(3):
            big_file(box / f"f{number}", 8 * MIB)
        wait_until("jobs are there", lambda: len(daemon.jobs()) == 3, 20, daemon.text)
        daemon.ctl("pause")
        box.rename(tmp_path / "away")
        if restart:
            daemon.stop()
            daemon.start()
        daemon.ctl("resume")
        wait_states(daemon, ROOT_MISSING)
        (tmp_path / "away").rename(box)
        daemon.wait_idle(60)
        assert {job["state"] for job in daemon.ctl("history")["jobs"]} == {"done"}
        no_trace(daemon)


def test_deleted_is_given_up_and_taken_up_again(tmp_path: Path, box: Path) -> None:
    """A file that was really deleted is cancelled as source-gone, and queued anew when the same version is back."""
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        daemon.ctl("pause")
        (box / "a").write_bytes(b"a")
        wait_states(daemon, ("paused", "user"))
        (box / "a").rename(tmp_path / "a")
        wait_until("it is given up", lambda: not daemon.jobs(), 20, daemon.text)
        job = daemon.ctl("history")["jobs"][0]
        assert (job["state"], job["reason"]) == ("cancelled", "source-gone")
        (tmp_path / "a").rename(box / "a")
        daemon.ctl("resume")
        wait_until("it arrives", (server.files() / "outbox" / "a").exists, 20, daemon.text)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
@pytest.mark.parametrize("seen_by", ["worker", "scan"])
def test_what_is_no_file_any_more_has_gone(tmp_path: Path, box: Path, kind: str, seen_by: str) -> None:
    """A folder, a link or a FIFO in a queued file's place: the job is source-gone, and does not fail for ever."""
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        daemon.ctl("pause")
        (box / "a").write_bytes(b"a")
        wait_states(daemon, ("paused", "user"))
        (box / "a").unlink()
        if kind == "folder":
            (box / "a").mkdir()
            (box / "a" / "b").write_bytes(b"b")
            wait_until(
                "what is in it is queued", lambda: any(j["path"] == "a/b" for j in daemon.jobs()), 20, daemon.text
            )
        elif kind == "link":
            (tmp_path / "elsewhere").write_bytes(b"a")  # the very bytes: only the link tells that it is another file
            (box / "a").symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(box / "a")
        if seen_by == "scan":
            daemon.ctl("rescan", "--wait")
        daemon.ctl("resume")
        if kind == "folder":
            wait_until("what is in it arrives", (server.files() / "outbox" / "a" / "b").exists, 20, daemon.text)
        daemon.wait_idle(20)
        ended = {(job["path"], job["state"], job["reason"]) for job in daemon.ctl("history")["jobs"]}
        assert ("a", "cancelled", "source-gone") in ended
        assert {path for path, _, _ in ended} <= {"a", "a/b"}
        assert not (server.files() / "outbox" / "a").is_file()


def test_a_file_that_keeps_growing(tmp_path: Path, box: Path) -> None:
    """An upload that meets a writer gives way, once; the file is sent when it has settled."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box), "settle": "1s"}])
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.02):
            with (box / "log").open("ab") as file:
                file.write(b"another line\n" * 100)

    with running(server, daemon):
        big_file(box / "log", 200 * MIB)
        wait_until("it is begun", lambda: ("hashing", None) in states(daemon) or stored_chunks(server), 20, daemon.text)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until("it is given up", lambda: not daemon.jobs(), 20, daemon.text)
            wait_until("the writer is noticed", lambda: daemon.ctl("status")["folders"][0]["changing"], 20, daemon.text)
        finally:
            over.set()
            writer.join()
        daemon_sends = server.files() / "outbox" / "log"
        wait_until(
            "the whole arrives", lambda: daemon_sends.exists() and sha256(daemon_sends) == sha256(box / "log"), 60
        )
        daemon.wait_idle()
        assert len(daemon.ctl("history")["jobs"]) <= 3


def test_second_instance(tmp_path: Path, box: Path) -> None:
    """A second daemon on one state folder is refused by the number of the first, and touches nothing of it."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        wait_until("it has written all it writes", (daemon.state / "roots.json").exists, 10, daemon.text)
        before = {path: path.stat().st_mtime_ns for path in daemon.state.iterdir()}
        for command in ("run", "start", "once"):
            second = subprocess.run(
                [BIN / "chunkyd", "--config", daemon.config, command], capture_output=True, text=True, check=False
            )
            assert second.returncode == 1
            assert str(daemon.pid) in second.stderr
            assert "Traceback" not in second.stderr
        assert {path: path.stat().st_mtime_ns for path in daemon.state.iterdir()} == before
        (box / "a").write_bytes(b"a")
        wait_until("the first goes on", (server.files() / "outbox" / "a").exists, 20, daemon.text)


def test_state_folder_full(tmp_path: Path, box: Path, small_disk: Callable[[str], Path]) -> None:
    """No room for the job table: said in status, nothing is lost, and all arrives by itself when there is room."""
    server = Server(tmp_path)
    disk = small_disk("2m")
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], state_dir=str(disk / "state"))
    with running(server, daemon):
        (box / "first").write_bytes(b"1")
        wait_until("the first arrives", (server.files() / "outbox" / "first").exists, 20, daemon.text)
        daemon.wait_idle()
        with (disk / "ballast").open("wb", 0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        for number in range(60):
            (box / f"f{number}").write_bytes(os.urandom(1000))
        wait_until("it is said", lambda: "disk is full" in str(daemon.ctl("status")["problems"]), 20, daemon.text)
        assert daemon.running()
        (disk / "ballast").unlink()
        wait_until("all arrive", lambda: len(os.listdir(server.files() / "outbox")) == 61, 90, daemon.text)
        daemon.wait_idle()
        assert daemon.stop() == 0
        no_trace(daemon)


def tokens_server(tmp_path: Path) -> tuple[Server, str]:
    """A server with users, and a token of one of them."""
    server = Server(tmp_path, auth="tokens")
    server.command("user", "add", "cam")
    return server, server.command("token", "add", "--user", "cam").splitlines()[-1]


def test_wrong_token(tmp_path: Path, box: Path) -> None:
    """A refused token holds the whole queue; one put into its place is tried without being asked."""
    server, token = tokens_server(tmp_path)
    file = tmp_path / "token"
    file.write_text("wrong-token-0000000000000000000000\n")
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], server={"token_file": str(file)})
    with running(server, daemon):
        for name in "abc":
            (box / name).write_bytes(b"x")
        wait_until("three jobs", lambda: len(daemon.jobs()) == 3, 20, daemon.text)
        wait_states(daemon, ("paused", "auth"))
        file.write_text(token + "\n")
        wait_until("all arrive", lambda: len(list(server.files("cam").glob("outbox/*"))) == 3, 40, daemon.text)
        no_trace(daemon)


def test_reload(tmp_path: Path, box: Path) -> None:
    """A bad file changes nothing; a good one adds and removes folders; what needs a restart is named."""
    other = tmp_path / "other"
    other.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])

    def command(*names: str) -> tuple[int, str]:
        done = subprocess.run(
            [BIN / "chunkyctl", "--config", daemon.config, "--socket", daemon.socket, *names],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    with running(server, daemon):
        good: dict[str, Any] = dict(daemon.settings)
        wait_until("all its threads run", lambda: daemon.ctl("status")["folders"][0]["state"] == "ok", 20, daemon.text)
        threads = len(os.listdir(f"/proc/{daemon.pid}/task"))
        daemon.config.write_text(daemon.config.read_text().replace("settle:", "settel:"))
        code, text = command("reload")
        assert code != 0
        assert "settel" in text
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(
            "the signal's is refused too", lambda: "settings stay as they were" in daemon.text(), 10, daemon.text
        )
        daemon.settings = {**good, "folders": [*good["folders"], {"path": str(other), "settle": "300ms"}]}
        daemon.settings["uploads"] = {"workers": 3}
        daemon.write_config()
        assert command("reload")[0] == 0
        (other / "a").write_bytes(b"a")
        wait_until("the new folder's file arrives", (server.files() / "other" / "a").exists, 20, daemon.text)
        daemon.settings = {**good, "state_dir": str(tmp_path / "elsewhere")}
        daemon.write_config()
        code, text = command("reload")
        assert "state_dir" in text
        (other / "b").write_bytes(b"b")
        (box / "b").write_bytes(b"b")
        wait_until("the kept folder's file arrives", (server.files() / "outbox" / "b").exists, 20, daemon.text)
        assert not (server.files() / "other" / "b").exists()
        daemon.settings = good
        daemon.write_config()
        for _ in range(10):
            assert command("reload")[0] == 0
        # Three workers, two for what is done beside them, and the one that looks after requests may have begun since.
        wait_until("no thread is left over", lambda: len(os.listdir(f"/proc/{daemon.pid}/task")) <= threads + 6, 10)
        no_trace(daemon)


@pytest.mark.parametrize("phase", ["sending", "server stalled", "server away"])
def test_sigterm_in_every_phase(tmp_path: Path, box: Path, phase: str) -> None:
    """SIGTERM ends the daemon with 0 and in time, whatever it waits for; the next start goes on."""
    server = Server(tmp_path)
    daemon = slow_daemon(tmp_path, server.url, box)
    with running(server, daemon):
        expected = big_file(box / "big", 64 * MIB)
        wait_until("a part is there", lambda: len(stored_chunks(server)) >= 4, 30, daemon.text)
        if phase == "server stalled":
            os.kill(server.pid, signal.SIGSTOP)
        if phase == "server away":
            server.kill()
            wait_until("it has noticed", lambda: states(daemon) != {("uploading", None)}, 20, daemon.text)
        assert daemon.stop(10) == 0
        os.kill(server.pid, signal.SIGCONT) if phase == "server stalled" else None
        if phase == "server away":
            server.start()
        daemon.start()
        arrived = server.files() / "outbox" / "big"
        wait_until("it arrives", arrived.exists, 40, daemon.text)
        assert sha256(arrived) == expected
        no_trace(daemon)


def test_start_stop_restart(tmp_path: Path, box: Path) -> None:
    """In the background: up when `start` returns, refused twice, gone when `stop` returns; a failure is told."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])

    def chunkyd(command: str) -> tuple[int, str]:
        done = subprocess.run(
            [BIN / "chunkyd", "--config", daemon.config, command], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    with running(server):
        try:
            assert chunkyd("start") == (0, "")
            first = daemon.ctl("status")["pid"]
            code, said = chunkyd("start")
            assert (code, str(first) in said) == (1, True)
            (box / "a").write_bytes(b"a")
            wait_until("it arrives", (server.files() / "outbox" / "a").exists, 20)
            assert chunkyd("restart")[0] == 0
            assert daemon.ctl("status")["pid"] != first
        finally:
            stopped = chunkyd("stop")
        assert stopped[0] == 0
        assert chunkyd("stop")[0] == 1
        assert "Traceback" not in (daemon.state / "daemon.log").read_text()


def test_once(tmp_path: Path, box: Path) -> None:
    """One pass: 0 when all is sent, 69 when the server is away; nothing is sent twice."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], uploads={"retry": {"attempts": 2, "base": "100ms"}})

    def once() -> tuple[int, str]:
        done = subprocess.run(
            [BIN / "chunkyd", "--config", daemon.config, "once"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    (box / "a").write_bytes(b"a")
    assert once()[0] == 69
    with running(server):
        assert once()[0] == 0
        assert (server.files() / "outbox" / "a").read_bytes() == b"a"
        assert once()[0] == 0
        assert len(stored_chunks(server)) == 1
        box.rename(tmp_path / "away")
        once()


@pytest.mark.parametrize("zone", ["CET-1CEST,M3.5.0,M10.5.0/3", "Nowhere/Here"])
def test_a_time_zone_that_has_no_name(tmp_path: Path, box: Path, zone: str) -> None:
    """One that POSIX allows and no table knows, and one that is none, keep no file from arriving."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], env={"TZ": zone})
    with running(server, daemon):
        (box / "a").write_bytes(b"a")
        wait_until("it arrives", (server.files() / "outbox" / "a").exists, 30, daemon.text)


def test_once_with_jobs_of_a_folder_no_longer_configured(tmp_path: Path, box: Path) -> None:
    """They stay where they are, and nobody waits for them."""
    other = tmp_path / "other"
    other.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}, {"path": str(other)}])
    with running(server):
        with running(daemon):
            daemon.ctl("pause")
            (other / "a").write_bytes(b"a")
            wait_states(daemon, ("paused", "user"))
            daemon.settings["folders"] = daemon.settings["folders"][:1]
            daemon.write_config()
            daemon.ctl("reload")
            daemon.ctl("resume")
            assert daemon.stop() == 0
        run("chunkyd", "--config", str(daemon.config), "once")
        assert not (server.files() / "other").exists()


@pytest.mark.parametrize("policy", ["delete", "move"])
def test_killed_around_what_follows_an_upload(tmp_path: Path, box: Path, policy: str) -> None:
    """kill -9 again and again: every file arrives, and in the end none is left behind, hidden or not."""
    sent = tmp_path / "sent"
    server = Server(tmp_path)
    after: Any = "delete" if policy == "delete" else {"move": str(sent)}
    daemon = Daemon(tmp_path, server.url, [{"path": str(box), "after_upload": after}])
    contents = {f"f{number}": os.urandom(2000) for number in range(60)}
    with running(server):
        for name, content in contents.items():
            (box / name).write_bytes(content)
        for number in range(6):
            daemon.start()
            wait_until(
                "some more have arrived",
                lambda wanted=8 * (number + 1): len(list(server.files().glob("outbox/*"))) >= wanted,
                30,
                daemon.text,
            )
            daemon.kill()
        with running(daemon):
            daemon.wait_idle()
        assert {path.name: path.read_bytes() for path in server.files().glob("outbox/*")} == contents
        assert os.listdir(box) == []
        if policy == "move":
            assert {path.name: path.read_bytes() for path in sent.iterdir()} == contents
        no_trace(daemon)


@pytest.mark.parametrize("damage", ["deleted", "noise"])
def test_job_table_lost(tmp_path: Path, box: Path, damage: str) -> None:
    """Without its job table the daemon finds its files anew, and no content travels twice."""
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        big_file(box / "a", 3 * MIB)
        wait_until("it arrives", (server.files() / "outbox" / "a").exists, 20, daemon.text)
        daemon.wait_idle()
        sent = len(stored_chunks(server))
        daemon.kill()
        for path in daemon.state.glob("jobs.sqlite3*"):
            path.unlink() if damage == "deleted" else path.write_bytes(os.urandom(20_000))
        daemon.start()
        wait_until("it is known again", lambda: len(daemon.ctl("history")["jobs"]) == 1, 20, daemon.text)
        assert len(stored_chunks(server)) == sent
        assert ("was damaged and is now" in daemon.text()) == (damage != "deleted")
        no_trace(daemon)


def test_quickstart(tmp_path: Path) -> None:
    """Ctrl-C ends it cleanly, the next run keeps its address and sends nothing twice, kill -9 leaves no server."""
    port = free_port()
    program = Program(tmp_path, "quickstart", "chunkyd", "quickstart", "./outbox", "--port", str(port), cwd=tmp_path)
    arrived = tmp_path / "received" / "files" / "local" / "outbox" / "a"

    def up(times: int) -> None:
        wait_until("it is up", lambda: program.text().count(f"http://127.0.0.1:{port} ") == times, 20, program.text)

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with running(program):
        up(1)
        (tmp_path / "outbox" / "a").write_bytes(b"a")
        wait_until("it arrives", arrived.exists, 20, program.text)
        os.kill(program.pid, signal.SIGINT)
        assert program.process is not None
        assert program.process.wait(15) == 0
        program.start()
        up(2)
        second = subprocess.run(
            [BIN / "chunkyd", "quickstart", "./outbox"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (second.returncode, str(program.pid) in second.stderr) == (1, True)
        program.kill()
        wait_until("the server goes too", lambda: not listening(), 15)
        assert program.text().count("arrived:") == 1
        no_trace(program)
