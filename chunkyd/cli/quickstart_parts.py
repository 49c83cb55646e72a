"""What quickstart runs on: two small configurations in ./.chunkyd, and a server as a child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import TracebackType

import msgspec
import yaml

from chunkyd.daemon.lock import holder
from chunkyd.errors import AlreadyRunning, EnvironmentFailure, UsageError
from chunkyd.files import atomic_write, make_durable_folder
from chunkyd.settings import is_inside

_START_SECONDS = 15.0
_STOP_SECONDS = 12.0
# The child asks to be told when its parent dies, however that happens: no server is left behind.
_CHILD = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM);"
    "parent = int(sys.argv.pop(1)); os.getppid() == parent or sys.exit(1);"  # it may have died before we asked
    "from chunkyd.cli.chunky_server import main; main()"
)


class Parts(msgspec.Struct, frozen=True):
    """Where everything of a quickstart is; all paths absolute."""

    folder: str
    received: str
    state: str
    port: int

    @property
    def daemon_config(self) -> str:
        """What `chunkyctl --config` takes."""
        return os.path.join(self.state, "chunkyd.yaml")

    @property
    def server_config(self) -> str:
        """What `chunky-server --config` takes."""
        return os.path.join(self.state, "server.yaml")

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    def welcome(self) -> str:
        """What a user sees first."""
        arrives = os.path.join(_short(self.received), "files", "local", os.path.basename(self.folder))
        lines = (
            f"Watching   {_short(self.folder)}/",
            f"Arrives in {arrives}/",
            f"Server     {self.url} (open, this machine only)",
            "",
            "Try, in a second terminal:",
            f"  cp SOME_FILE {_short(self.folder)}/",
            f"  {_short(os.path.join(os.path.dirname(sys.executable), 'chunkyctl'))} "
            f"--config {_short(self.daemon_config)} status",
            "",
            "Ctrl-C ends it; the same command again goes on where it was.",
        )
        return "\n".join(lines)


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("../..") else os.path.join(".", relative)


def refuse_second(here: str) -> None:
    """Raise AlreadyRunning beside another quickstart: it is not to find a new configuration at its next reload."""
    pid = holder(_state(here))
    if pid is not None:
        raise AlreadyRunning(f"a quickstart runs here already (process {pid})", mend="end it, or use another folder")


def _state(here: str) -> str:
    return os.path.join(here, ".chunkyd")


def write_settings(folder: str, here: str, port: int) -> Parts:
    """Make the folders and write both configurations; the port is one that is free."""
    parts = Parts(folder, os.path.join(here, "received"), _state(here), _free_port(port))
    for own in (parts.received, parts.state):
        if is_inside(own, folder):
            raise UsageError(f"{folder} holds {own}, which is ours", mend="name another folder, such as ./outbox")
    for path in (parts.folder, parts.received):
        make_durable_folder(path, 0o755)
    make_durable_folder(parts.state)
    server = {
        "listen": f"127.0.0.1:{parts.port}",
        "data_dir": parts.received,
        "auth": "open",
        "log": {"level": "warning"},
    }
    daemon = {
        "server": {"url": parts.url},
        "state_dir": parts.state,
        "folders": [{"path": parts.folder, "settle": "1s"}],
        "control": {"socket": os.path.join(parts.state, "control.sock")},
    }
    atomic_write(parts.server_config, yaml.safe_dump(server, allow_unicode=True).encode())
    atomic_write(parts.daemon_config, yaml.safe_dump(daemon, allow_unicode=True).encode())
    return parts


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            # Connections of the last run linger on its port for a minute; it is free all the same, and what was under
            # way goes on only at the same address.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EnvironmentFailure("no port is free on 127.0.0.1")


class EmbeddedServer:
    """A chunky-server of our own, for as long as the block lasts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(os.getpid()), "--config", self._parts.server_config, "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to hear: the daemon stops first
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith("listening"):
            self.__exit__(None, None, None)
            raise EnvironmentFailure("the server did not start", mend="the lines above say why")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
