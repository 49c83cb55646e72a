"""The checkpoints themselves: the table and the code agree, and an armed one does what it says."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

import chunkyd
from chunkyd import checkpoints
from tests.e2e.programs import BIN, Daemon, Server

PACKAGE = Path(chunkyd.__file__).parent


def calls() -> Counter[str]:
    """How often each name is given to `reached` in the code; a name that is no literal would be ''."""
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                name = node.args[0]
                found[name.value if isinstance(name, ast.Constant) else ""] += 1
    return found


def test_the_table_and_the_code_agree() -> None:
    """Every checkpoint of the table stands in the code, once, and the code has no other."""
    assert calls() == dict.fromkeys(checkpoints.CHECKPOINTS, 1)


def run_armed(arming: str) -> subprocess.CompletedProcess[str]:
    """A small program that comes by two checkpoints, one of them twice."""
    program = (
        "import os; from chunkyd import checkpoints; checkpoints.arm(os.environ);"
        "[(print(name, flush=True), checkpoints.reached(name))"
        " for name in ('jobs.claimed', 'jobs.done', 'jobs.claimed')]; print('end')"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env={checkpoints.VARIABLE: arming},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arming", "printed"),
    [
        ("jobs.claimed", 1),
        ("jobs.done=kill", 2),
        ("jobs.claimed:2", 3),
        ("jobs.claimed:3,jobs.done", 2),
    ],
)
def test_killed_at_the_arrival_that_is_named(arming: str, printed: int) -> None:
    """The process dies by SIGKILL at exactly that arrival, and has said so."""
    done = run_armed(arming)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.splitlines()) == printed
    assert done.stderr.startswith("checkpoint jobs.") and done.stderr.endswith(": killed\n")


@pytest.mark.parametrize("arming", ["", "jobs.claimed:3"])
def test_what_is_not_armed_does_nothing(arming: str) -> None:
    """Without the variable, or before the count is full, a program runs to its end and says nothing."""
    done = run_armed(arming)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "end"


def test_unarmed_it_costs_a_look_at_a_global() -> None:
    """Nothing but a global is read, and nothing called, where no checkpoint is armed: the function's own bytecode."""
    code: types.CodeType = checkpoints.reached.__code__
    assert checkpoints._armed is None
    assert code.co_names == ("_armed", "arrive")  # the second only where the first is not None
    assert len(list(code.co_consts)) <= 2


def test_stopped_until_it_may_go_on(tmp_path: Path) -> None:
    """`=stop` makes the process stand still at the checkpoint, without ending; SIGCONT lets it go on."""
    server = Server(tmp_path, env={checkpoints.VARIABLE: "storage.lock.taken=stop"})
    try:
        server.begin()
        server.wait_stopped()
        assert server.running() and not (server.data / "catalog.sqlite3").exists()
        server.go_on()
        server.wait_ready()
    finally:
        server.kill()


def test_a_checkpoint_is_no_setting(tmp_path: Path) -> None:
    """The daemon, whose settings begin with CHUNKYD_ in the environment too, starts armed, and dies where it should."""
    (tmp_path / "outbox").mkdir()
    folders = [{"path": str(tmp_path / "outbox")}]
    daemon = Daemon(tmp_path, "http://127.0.0.1:1", folders, env={checkpoints.VARIABLE: "daemon.lock.taken"})
    daemon.begin()
    daemon.wait_killed()


@pytest.mark.parametrize(
    ("arming", "says"),
    [
        ("server.chunk.sinked", "Did you mean server.chunk.synced?"),
        ("server.chunk.synced:0", "is no checkpoint"),
        ("server.chunk.synced=die", "is no checkpoint"),
        ("jobs.claimed,", "'' is no checkpoint"),
    ],
)
@pytest.mark.parametrize("program", ["chunkyd", "chunky-server"])
def test_what_cannot_be_armed_is_a_bad_configuration(program: str, arming: str, says: str) -> None:
    """A name that is not in the table, or a count or action that is none, ends a program at its start with 78."""
    done = subprocess.run(
        [str(BIN / program), "check-config"],
        env={checkpoints.VARIABLE: arming},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert says in done.stderr
