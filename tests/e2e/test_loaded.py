"""What each command loads before it does its work: time that everybody waits for, counted in modules."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from chunkyd.control.server import ControlServer
from tests.control.fake import FakeBackend, job
from tests.e2e.programs import Daemon, running

NETWORK = {"http.client", "email", "ssl", "requests", "urllib3"}
SERVING = {"cheroot", "apscheduler", "watchdog", "starlette", "httptools", "uvloop", "prometheus_client", "daemon"}
DATABASE = {"peewee", "sqlite3"}
SHOWING = {"rich"}
REST = {"yaml", "pathspec", "crc32c", "asyncio", "logging", "importlib.metadata"}
LITTLE = {"urllib.parse", "ipaddress", "difflib", "base64", "json", "humanize", "socket", "click.shell_completion"}
HEAVY = NETWORK | SERVING | DATABASE | SHOWING | REST | LITTLE


TOLD = """
import atexit, os, sys
atexit.register(lambda: print('loaded:', *sys.modules, file=sys.stderr))
os._exit = sys.exit  # chunkyctl leaves without a word
"""


def modules(surely: str, code: str, *arguments: str) -> set[str]:
    """All modules that this code loads, which has to end well; one it loads for sure shows that they are seen."""
    command = [sys.executable, "-c", TOLD + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr[-2000:]
    found = set(done.stderr.rpartition("loaded:")[2].split())
    assert surely in found
    return found


@functools.cache
def bare() -> set[str]:
    """What a Python loads that does nothing: an editable installation takes a share of the standard library."""
    return modules("site", "pass")


def program_modules(program: str, *arguments: str) -> set[str]:
    """All modules that a command loads."""
    name = program.replace("-", "_")
    return modules(f"chunkyd.cli.{name}", f"from chunkyd.cli.entry import {name}; {name}()", *arguments) - bare()


def loaded(program: str, *arguments: str) -> set[str]:
    """The heavy modules among them."""
    return program_modules(program, *arguments) & HEAVY


@pytest.mark.parametrize("program", ["chunkyctl", "chunky", "chunkyd", "chunky-server"])
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_a_program_that_only_says_something(program: str, option: str) -> None:
    """Its version, or how it is used, needs no library but those for command lines and structs."""
    assert loaded(program, option) <= {"socket"}


@pytest.mark.parametrize("command", [("chunkyctl", "list"), ("chunky", "upload"), ("chunkyd", "run")])
def test_the_help_of_a_command(command: tuple[str, str]) -> None:
    """How a command is used is told without what it is going to need."""
    assert loaded(*command, "--help") <= {"socket"}


def test_chunkyctl_with_a_daemon(tmp_path: Path) -> None:
    """A question to the daemon needs a socket, and YAML for its path; given the path, not even that."""
    socket = tmp_path / "c.sock"
    config = tmp_path / "config.yaml"
    config.write_text(f"control:\n  socket: {socket}\n")
    server = ControlServer(str(socket), None, FakeBackend(job(1)))
    server.start()
    try:
        for command in (("list",), ("list", "--json"), ("status",), ("show", "1"), ("pause",), ("history",)):
            shown = {"humanize"} if "--json" not in command else set()
            known = loaded("chunkyctl", "--config", str(config), *command)
            assert known <= {"socket", "yaml", "base64"} | shown, command
        assert loaded("chunkyctl", "--socket", str(socket), "list", "--json") == {"socket"}
    finally:
        server.stop()


def test_a_command_loads_no_other() -> None:
    """Of the commands of a program only the one that is asked for is loaded, and of the settings' readers none."""
    found = program_modules("chunkyctl", "list", "--help")
    commands = {each.removeprefix("chunkyd.cli.ctl_") for each in found if each.startswith("chunkyd.cli.ctl_")}
    assert commands == {"common", "complete", "list", "offline", "table"}
    assert not found & {f"chunkyd.settings.{name}" for name in ("daemon", "server", "shapes", "timetable", "units")}


def test_chunkyctl_without_a_daemon(tmp_path: Path) -> None:
    """What the job table says takes the database, and nothing of what a daemon uploads and watches with."""
    (tmp_path / "outbox").mkdir()
    daemon = Daemon(tmp_path, "http://127.0.0.1:9", [{"path": str(tmp_path / "outbox")}])
    with running(daemon):
        daemon.stop()
    for command in ("list", "history"):
        assert loaded("chunkyctl", "--config", str(daemon.config), command) <= {"logging", "yaml", *DATABASE, *LITTLE}


def test_a_configuration_is_checked(tmp_path: Path) -> None:
    """It takes the client that would refuse it, and neither job table nor watcher nor server."""
    (tmp_path / "outbox").mkdir()
    config = tmp_path / "config.yaml"
    text = "server: {url: 'http://127.0.0.1:9'}\nstate_dir: %s/state\nfolders: [{path: %s/outbox}]\n"
    config.write_text(text % (tmp_path, tmp_path))
    assert not loaded("chunkyd", "--config", str(config), "check-config") & (SERVING | SHOWING | {"peewee"})
    assert not (tmp_path / "state").exists()


def test_the_daemon_begins_light() -> None:
    """Up to the check of its job table it has loaded what that takes; the rest is loaded beside the check."""
    found = modules("chunkyd.daemon.service", "import chunkyd.cli.daemon_run, chunkyd.daemon.service")
    assert found & (HEAVY - LITTLE) <= {"logging", "sqlite3"}
