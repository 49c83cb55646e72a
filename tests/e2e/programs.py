"""The real programs, as processes. Every wait has a deadline; all that is started is stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from chunkyd.checkpoints import VARIABLE

BIN = Path(sys.executable).parent
_CHANCE = random.SystemRandom()  # not the seeded one: tests in other processes want other ports


def free_port() -> int:
    """A port nobody listens on now, and which no outgoing connection is given while its server is down."""
    while True:
        port = _CHANCE.randrange(12000, 32000)  # below the system's ephemeral ports
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(what: str, condition: Callable[[], Any], seconds: float = 30.0, about: Callable[[], str] = str) -> Any:
    """The condition's first true value; an AssertionError that says what never happened, after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}\n{about()}")


def sha256(path: Path | str | bytes) -> str:
    """The hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(root: Path) -> dict[bytes, tuple[str, int, int]]:
    """Every regular file below root: relative path → (hash, mode without group- and world-write, mtime_ns).

    What vanishes while it is looked at is not there.
    """
    found = {}
    top = os.fsencode(root)
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    found[os.path.relpath(path, top)] = (sha256(path), status.st_mode & 0o755, status.st_mtime_ns)
    return found


class Program:
    """One process of ours, with its output in a file."""

    def __init__(
        self, folder: Path, name: str, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = folder / f"{name}.log"
        self._command = [str(BIN / command[0]), *command[1:]]
        self.env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin the process; its output is appended to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self.process is not None
        return self.process.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and the whole of its process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def begin(self) -> None:
        """Begin the process and wait for nothing; `start` of each program waits until it serves."""
        Program.start(self)

    def wait_killed(self, seconds: float = 30.0) -> None:
        """Until it has ended by SIGKILL; an AssertionError where it lives on, or has ended otherwise."""
        wait_until("the process is killed", lambda: not self.running(), seconds, self.text)
        assert self.process is not None
        assert self.process.returncode == -signal.SIGKILL, f"{self.process.returncode}\n{self.text()[-3000:]}"

    def wait_stopped(self, seconds: float = 30.0) -> None:
        """Until it stands still (SIGSTOP), as a checkpoint armed with `=stop` makes it."""
        status = Path(f"/proc/{self.pid}/stat")
        wait_until("the process is stopped", lambda: status.read_text().rpartition(")")[2].split()[0] == "T", seconds)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def arm(self, checkpoint: str | None) -> None:
        """From the next start on: be killed, or stopped, at this checkpoint (chunkyd/checkpoints.py); None: no more."""
        self.env.pop(VARIABLE, None)
        if checkpoint is not None:
            self.env[VARIABLE] = checkpoint

    def stop(self, seconds: float = 12.0) -> int:
        """SIGTERM, and its exit code; an AssertionError where it does not end in time."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"did not stop within {seconds} s\n{self.text()[-3000:]}") from error

    def text(self) -> str:
        """All it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Server(Program):
    """A chunky-server, open on loopback unless told else."""

    def __init__(self, folder: Path, port: int | None = None, data_dir: Path | None = None, **settings: Any) -> None:
        self.port = port or free_port()
        self.data = data_dir or folder / "server-data"
        self.config = folder / "server.yaml"
        env = settings.pop("env", None)
        self.settings: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "data_dir": str(self.data),
            "auth": "open",
            "limits": {"reserve": "1MiB"},
            **settings,
        }
        self.write_config()
        super().__init__(folder, "server", "chunky-server", "--config", str(self.config), "run", env=env)

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    def write_config(self) -> None:
        """Settings to the file; they count from the next start."""
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> None:
        """Begin and wait until it can store."""
        self.begin()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until it can store."""
        wait_until("the server listens", lambda: self.answers() or not self.running(), 15, self.text)
        assert self.running(), self.text()

    def answers(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def files(self, user: str = "local") -> Path:
        """Where a user's published files stand."""
        return self.data / "files" / user

    def command(self, *arguments: str) -> str:
        """`chunky-server ARGUMENTS` on this server's configuration; what it printed."""
        return run("chunky-server", "--config", str(self.config), *arguments)


class Daemon(Program):
    """A chunkyd over some folders."""

    def __init__(self, folder: Path, url: str, folders: list[dict[str, Any]], name: str = "daemon", **settings: Any):
        self.state = folder / f"{name}-state"
        self.config = folder / f"{name}.yaml"
        self.socket = folder / f"{name}.sock"
        env = settings.pop("env", None)
        self.settings: dict[str, Any] = {
            "server": {"url": url, **settings.pop("server", {})},
            "state_dir": str(self.state),
            "folders": [{"settle": "300ms", **each} for each in folders],
            "control": {"socket": str(self.socket)},
            **settings,
        }
        self.write_config()
        super().__init__(folder, name, "chunkyd", "--config", str(self.config), "run", env=env)

    def write_config(self) -> None:
        """Settings to the file; `chunkyctl reload` or the next start reads them."""
        self.config.write_text(yaml.safe_dump(self.settings, allow_unicode=True))

    def start(self) -> None:
        """Begin and wait until the control socket answers."""
        self.begin()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until the control socket answers."""
        wait_until("the daemon answers", lambda: self.answers() or not self.running(), 20, self.text)
        assert self.running(), self.text()

    def answers(self) -> bool:
        """Whether its control socket takes connections."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ctl(self, *arguments: str) -> Any:
        """`chunkyctl ARGUMENTS --json`, parsed."""
        return json.loads(run("chunkyctl", "--config", str(self.config), *arguments, "--json"))

    def jobs(self) -> list[dict[str, Any]]:
        """The unfinished and failed jobs."""
        listed: list[dict[str, Any]] = self.ctl("list")["jobs"]
        return listed

    def wait_idle(self, seconds: float = 30.0) -> None:
        """Until no job is left to do."""
        wait_until("no job is left", lambda: not self.jobs(), seconds, lambda: str(self.jobs()) + self.text()[-3000:])


def run(*command: str, check: bool = True, **options: Any) -> str:
    """One command to its end; its standard output. An AssertionError shows what it said where it fails."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, timeout=120, check=False, **options
    )
    if check:
        assert done.returncode == 0, f"{command} → {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@contextlib.contextmanager
def running(*programs: Program) -> Iterator[None]:
    """Started in order; whatever happens, none outlives the block."""
    try:
        for program in programs:
            program.start()
        yield
    finally:
        for program in reversed(programs):
            program.kill()
