"""The command line, over a real socket: what is printed, and the exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest

from chunkyd.cli import ctl_common
from chunkyd.cli.chunky_server import server as server_program
from chunkyd.cli.chunkyctl import chunkyctl, main
from chunkyd.cli.chunkyd import daemon
from chunkyd.cli.commands import Commands
from chunkyd.clock import ManualClock
from chunkyd.control.base import Held, Notice, ReloadOutcome, Selection
from chunkyd.control.server import ControlServer
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Change
from chunkyd.jobs.opening import open_tables
from chunkyd.jobs.queue import Queue
from tests.control.fake import FakeBackend, job

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("list", "--json")` → exit code, stdout, stderr; the socket is given."""

    def command(*arguments: str, to: tuple[str, ...] = ("--socket", path)) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["chunkyctl", *to, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return command


def test_list_prints_lines_with_tabs(run: Run, server: ControlServer):
    """Without a terminal: columns separated by tabs, and a name never breaks its line."""
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert out.split("\n") == [
        "JOB\tSTATE\tDONE\tFILE\tNOTE",
        "1\tqueued\t0 Bytes of 1000 Bytes (0 %)\tfootage/a/film.mov\t",
        "2\tfailed\t0 Bytes of 1000 Bytes (0 %)\tfootage/bad\\xff\\n.bin\tno room",
        "",
    ]


def test_list_json_is_one_document(run: Run, server: ControlServer, backend: FakeBackend):
    """The shape is the documented one; options reach the daemon."""
    code, out, _ = run("list", "--state", "failed", "--folder", "footage", "--limit", "5", "--after", "0", "--json")
    assert code == 0
    (listed,) = json.loads(out)["jobs"]
    assert (listed["id"], listed["pathBytes"], listed["bytesTotal"]) == (2, "YmFk/wouYmlu", 1000)
    assert backend.calls == [("jobs", (("failed",), "footage", 5, 0))]


def test_a_long_list_says_how_to_go_on(run: Run, server: ControlServer):
    """What is not shown is told on stderr."""
    assert "chunkyctl list --after 1" in run("list", "--limit", "1")[2]


def test_an_empty_list_says_so(run: Run, server: ControlServer, backend: FakeBackend):
    """No jobs are a sentence for people and an empty list for programs."""
    backend.table.clear()
    assert run("list")[1] == "nothing to do\n"
    assert json.loads(run("list", "--json")[1])["jobs"] == []
    assert run("history")[1] == "nothing was done yet\n"


def test_status_says_what_is_wrong_and_what_to_do(run: Run, server: ControlServer, backend: FakeBackend):
    """Problems come with their mend."""
    backend.notices = (Notice(what="too few watches", mend="raise it"),)
    code, out, _ = run("status")
    assert code == 0
    assert "chunkyd 0.1.0 is degraded" in out
    assert "problem: too few watches\n   mend: raise it\n" in out
    assert "footage\tok\t1 queued, 1 failed, 1 done\t3 files at 2026-01-31T12:00:00Z\t/srv/footage" in out
    document = json.loads(run("status", "--json")[1])
    assert document["problems"] == [{"what": "too few watches", "mend": "raise it"}]
    assert document["bytesPerSecond"] == 2_000_000


def test_status_tells_why_everything_waits(
    run: Run, server: ControlServer, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
):
    """A held queue names its reason and its next try."""
    held = Held(reason="network", what="no answer", next_probe="2026-01-31T12:00:00Z")
    seen = msgspec.structs.replace(backend.status(), state="offline", held=held)
    monkeypatch.setattr(backend, "status", lambda: seen)
    assert "held: network: no answer; next try at 2026-01-31T12:00:00Z" in run("status")[1]


def test_show_tells_what_was_resumed(run: Run, server: ControlServer, backend: FakeBackend):
    """A resumed job says how often and from where."""
    backend.table[7] = job(7, state="uploading", resumed_times=2, resumed_from=512, session_id="abcd1234")
    code, out, _ = run("show", "7")
    assert code == 0
    assert "resumed: 2 times, last from 512 Bytes" in out
    assert "session: abcd1234…" in out
    assert json.loads(run("show", "7", "--json")[1])["resumedFrom"] == 512
    code, out, err = run("show", "99")
    assert (code, out) == (1, "")
    assert "there is no job 99" in err


def test_pause_and_its_kin_reach_the_daemon(run: Run, server: ControlServer, backend: FakeBackend):
    """Jobs, a folder, or nothing for everything."""
    assert run("pause")[:2] == (0, "everything paused (3 jobs)\n")
    assert run("pause", "--folder", "footage")[:2] == (0, "folder footage paused (3 jobs)\n")
    assert run("resume", "1", "2")[:2] == (0, "2 jobs resumed\n")
    assert run("retry")[:2] == (0, "0 to be tried again\n")
    assert run("cancel", "1")[:2] == (0, "1 job cancelled\n")
    assert json.loads(run("cancel", "1", "--json")[1]) == {"changed": 1, "refused": []}
    assert backend.calls[:4] == [
        ("pause", Selection()),
        ("pause", Selection(folder="footage")),
        ("resume", Selection(jobs=(1, 2))),
        ("retry", ()),
    ]


def test_refused_jobs_are_exit_code_1(run: Run, server: ControlServer):
    """What could be done is done; the rest is told, in JSON too."""
    code, out, err = run("pause", "1", "99")
    assert (code, err) == (1, "job 99: there is no such job\n")
    code, out, err = run("pause", "1", "99", "--json")
    assert (code, json.loads(out)["refused"][0]["id"]) == (1, 99)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cancel",),
        ("show",),
        ("show", "x"),
        ("pause", "-3"),
        ("list", "--limit", "0"),
        ("nonsense",),
        ("pause", "1", "--folder", "a"),
    ],
)
def test_wrong_use_is_exit_code_2(run: Run, server: ControlServer, backend: FakeBackend, arguments: tuple[str, ...]):
    """What makes no sense is refused, by the command line or by the daemon, and nothing is done."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err
    assert backend.calls == []


def test_a_command_that_is_nearly_one(run: Run):
    """The one that was probably meant is named, though no command is loaded before it is asked for."""
    code, out, err = run("lst")
    assert (code, out) == (2, "")
    assert "No such command 'lst'. Did you mean 'list'?" in err


@pytest.mark.parametrize("program", [chunkyctl, daemon, server_program])
def test_every_command_is_where_it_is_looked_for(program: Commands):
    """What a program lists can be loaded, and has that name by itself too."""
    context = click.Context(program)
    assert len(program.list_commands(context)) > 5
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        assert command.name == name


def test_rescan_waits(run: Run, server: ControlServer, backend: FakeBackend):
    """Without --wait it only begins; with it, an unfinished scan is exit code 1."""
    assert run("rescan")[:2] == (0, "looking through footage\n")
    assert run("rescan", "footage", "--wait", "--timeout", "0.05")[0] == 1
    backend.release.set()
    assert run("rescan", "--wait")[:2] == (0, "looked through footage\n")


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf"])
def test_a_time_that_is_none_is_wrong_use(run: Run, server: ControlServer, seconds: str):
    """Refused before anybody is asked, and with words."""
    code, _, err = run("rescan", "--wait", "--timeout", seconds)
    assert code == 2
    assert "--timeout" in err


def test_reload_tells_what_became_of_it(run: Run, server: ControlServer, backend: FakeBackend):
    """In force, waiting for a restart, or refused with exit code 78."""
    assert run("reload")[:2] == (0, "the new settings are in force\n")
    backend.reloaded = ReloadOutcome(reloaded=True, need_restart=("state_dir",))
    assert run("reload")[0::2] == (0, "only after a restart: state_dir\n")
    backend.reloaded = ReloadOutcome(reloaded=False, what="c.yaml:3: unknown key", mend="Remove it")
    code, _, err = run("reload")
    assert code == 78
    assert "the old settings stay: c.yaml:3: unknown key. Remove it" in err
    code, out, _ = run("reload", "--json")
    assert (code, json.loads(out)["reloaded"]) == (78, False)


def test_nobody_there_is_exit_code_69(run: Run):
    """Every command that needs the daemon says how to start it."""
    for arguments in (("status",), ("show", "1"), ("pause",), ("resume",), ("retry",), ("cancel", "1"), ("rescan",)):
        code, out, err = run(*arguments)
        assert (code, out) == (69, "")
        assert "not running" in err
        assert "Start it with" in err


def test_the_socket_comes_from_the_configuration(
    run: Run, server: ControlServer, path: str, short_folder: Path, tmp_path: Path
):
    """--config, and nothing else, leads to the daemon; a bad one is exit code 78."""
    config = tmp_path / "config.yaml"
    text = "server: {url: 'http://127.0.0.1:1'}\nfolders: [{path: %s}]\ncontrol: {socket: %s}\n"
    config.write_text(text % (short_folder / "watched", path))
    assert run("status", "--json", to=("--config", str(config)))[0] == 0
    config.write_text("folder: x\ncontrol: {socket: %s}\n" % path)  # noqa: UP031
    assert run("status", to=("--config", str(config)))[0] == 0  # a daemon that runs on older settings can be asked
    config.write_text("folder: x\ncontrol: {socket: %s}\n" % (short_folder / "nobody"))
    assert run("status", to=("--config", str(config)))[0] == 78
    config.write_text("control: {sucket: x}\n")
    assert run("status", to=("--config", str(config)))[0] == 78
    assert run("status", to=("--config", str(tmp_path / "none.yaml")))[0] == 78


@pytest.fixture
def configured(short_folder: Path, path: str) -> tuple[str, ...]:
    """Options that name a configuration with a job table: two queued jobs of a daemon that is not running."""
    config = short_folder / "config.yaml"
    document = {
        "server": {"url": "http://127.0.0.1:1"},
        "state_dir": str(short_folder / "state"),
        "folders": [{"path": str(short_folder / "watched"), "name": "footage"}],
        "control": {"socket": path},
    }
    config.write_text(json.dumps(document))
    clock = ManualClock()
    with contextlib.closing(
        Queue(open_tables(str(short_folder / "state" / "jobs.sqlite3"), clock).tables, clock)
    ) as queue:
        versions = [(b"one", 10), (b"tw\xffo", 20), (b"gone", 30)]
        queue.offer([Change("footage", name, Fingerprint(1, size, size, size, size)) for name, size in versions])
        queue.cancel((3,))
    return ("--config", str(config))


def test_list_and_history_work_without_a_daemon(run: Run, configured: tuple[str, ...]):
    """The same shapes, from the job table, with a note on stderr that says so."""
    code, out, err = run("list", "--json", to=configured)
    assert code == 0
    assert [(each["id"], each["path"], each["state"]) for each in json.loads(out)["jobs"]] == [
        (1, "one", "queued"),
        (2, "tw\\xffo", "queued"),
    ]
    assert "is not running" in err
    assert "job table" in err
    assert run("list", "--state", "failed", to=configured)[1] == "nothing to do\n"
    code, out, _ = run("list", "--limit", "1", "--after", "1", "--json", to=configured)
    assert [each["id"] for each in json.loads(out)["jobs"]] == [2]
    code, out, _ = run("history", "--json", to=configured)
    assert [(each["id"], each["state"], each["size"]) for each in json.loads(out)["jobs"]] == [(3, "cancelled", 30)]


def test_offline_reading_changes_nothing(run: Run, configured: tuple[str, ...], short_folder: Path):
    """Not a byte of the state folder is written, and no file is left there."""

    def picture() -> dict[str, tuple[bytes, int]]:
        return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in (short_folder / "state").iterdir()}

    before = picture()
    assert run("list", to=configured)[0] == 0
    assert picture() == before


def test_wrong_names_are_wrong_use_offline_too(run: Run, configured: tuple[str, ...]):
    """An unknown folder or state is exit code 2, with those there are."""
    code, _, err = run("list", "--folder", "x", to=configured)
    assert (code, "footage" in err) == (2, True)
    code, _, err = run("list", "--state", "x", to=configured)
    assert (code, "queued" in err) == (2, True)


def test_another_daemons_table_is_never_shown(run: Run, configured: tuple[str, ...], short_folder: Path):
    """A socket given by hand that is not the configuration's: exit code 69, and nothing of the wrong daemon."""
    code, out, err = run("list", to=(*configured, "--socket", str(short_folder / "other.sock")))
    assert (code, out) == (69, "")
    assert "another socket" in err


def test_no_daemon_and_no_table_is_exit_code_69(run: Run, configured: tuple[str, ...], short_folder: Path):
    """It says both."""
    os.unlink(short_folder / "state" / "jobs.sqlite3")
    code, out, err = run("history", to=configured)
    assert (code, out) == (69, "")
    assert "is not running" in err
    assert "no job table" in err


def test_without_a_configuration_the_usual_socket_is_tried(
    run: Run, server: ControlServer, short_folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
):
    """A daemon at the usual place is found; where there is none either, the missing configuration is the error."""
    monkeypatch.setenv("HOME", str(short_folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("CHUNKYD_CONFIG", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(short_folder))
    assert run("status", to=())[0] == 0
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(short_folder / "nowhere"))
    assert run("status", to=())[0] == 78


def test_a_units_folders_are_known_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The configuration of `chunkyd@cam` leads to the folders systemd gave it; any other does not."""
    run_folder, state_folder = tmp_path / "run", tmp_path / "state"
    (run_folder / "cam").mkdir(parents=True)
    folders = {"RUNTIME_DIRECTORY": str(run_folder), "STATE_DIRECTORY": str(state_folder)}
    monkeypatch.setattr(ctl_common, "UNIT_FOLDERS", folders)
    found = ctl_common.unit_environ("/etc/chunkyd/cam.yaml", {"HOME": "/root"})
    assert found == {
        "HOME": "/root",
        "RUNTIME_DIRECTORY": str(run_folder / "cam"),
        "STATE_DIRECTORY": str(state_folder / "cam"),
    }
    for other in ("/etc/chunkyd/other.yaml", "/home/me/cam.yaml", "/etc/chunkyd/cam"):
        assert ctl_common.unit_environ(other, {"HOME": "/root"}) == {"HOME": "/root"}


def test_on_a_terminal_there_are_tables(server: ControlServer, path: str, backend: FakeBackend):
    """A terminal gets a table, in which names are neither markup nor control sequences."""
    backend.table[4] = job(4, b"[bold]\x1b[31m.mov")
    command = [str(Path(sys.executable).parent / "chunkyctl"), "--socket", path, "list"]
    leader, follower = pty.openpty()
    environ = {**os.environ, "COLUMNS": "150", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(30) == 0
    os.close(leader)
    assert b"[bold]\\x1b[31m.mov" in shown
    assert "──".encode() in shown


def test_the_shell_is_offered_jobs_and_folders(server: ControlServer, path: str):
    """Completion asks the daemon, and is silent where there is none."""
    program = str(Path(sys.executable).parent / "chunkyctl")

    def complete(words: str, count: int) -> str:
        environ = {**os.environ, "_CHUNKYCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        return subprocess.run([program], capture_output=True, text=True, timeout=60, env=environ, check=True).stdout

    assert complete(f"chunkyctl --socket {path} show ", 4).split() == ["plain,1", "plain,2"]
    assert complete(f"chunkyctl --socket {path} pause --folder f", 5).split() == ["plain,footage"]
    assert complete("chunkyctl --socket /nowhere show ", 4).split() == []
