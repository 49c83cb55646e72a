"""Peers that `make bench-peers` installs: each one's server, and the client's command. None of them is needed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from benchmarks.harness import Contender, Receiver
from benchmarks.machine import PEERS
from tests.e2e.programs import Program, free_port, wait_until

HERE = Path(__file__).parent / "tus"
_NOT_HERE = "{} is not installed: `make bench-peers`, then run this again"
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy; fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi; scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/arrived;
        location / {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two ends run: what stands before their commands, and the address the server listens on."""

    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    host: str = "127.0.0.1"


LOOPBACK = Place()


def lacks(*programs: str) -> Callable[[], str]:
    """Whether one of these is not there: in the path, or below `.peers`; then the sentence that says so."""

    def look() -> str:
        for program in programs:
            if shutil.which(program) is None and not (PEERS / program).exists():
                return _NOT_HERE.format(program)
        return ""

    return look


def only_file(source: Path) -> Path | None:
    """The folder's file, where there is just one."""
    names = sorted(source.iterdir())
    return names[0] if len(names) == 1 else None


@contextmanager
def serving(program: Program, says: str) -> Iterator[None]:
    """The program for the length of a block, from when its output says something."""
    try:
        program.begin()
        wait_until(
            f"{program.log.name} says {says}", lambda: says in program.text() or not program.running(), 20, program.text
        )
        if not program.running():
            raise RuntimeError(program.text())
        yield
    finally:
        program.kill()


@contextmanager
def _answering(program: Program, port: int) -> Iterator[None]:
    """The same for one that says nothing: from when it takes connections."""

    def open_now() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 or not program.running()

    try:
        program.begin()
        wait_until(f"{program.log.name}: it listens", open_now, 20, program.text)
        if not program.running():
            raise RuntimeError(program.text())
        yield
    finally:
        program.kill()


@contextmanager
def _nginx(folder: Path, source: Path) -> Iterator[Receiver]:
    port, arrived = free_port(), folder / "arrived"
    arrived.mkdir()
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(user + _NGINX.format(folder=folder, port=port))
    program = Program(folder, "nginx", _path("nginx"), "-c", str(config), "-e", str(folder / "nginx-first.log"))
    url = f"http://127.0.0.1:{port}/"
    with _answering(program, port):
        file = only_file(source)
        yield Receiver(program.pid, _curl(folder, source, url) if file is None else _curl_one(file, url), arrived)


def _curl_one(file: Path, url: str) -> Sequence[str]:
    return ["curl", "--silent", "--show-error", "--fail", "--upload-file", str(file), url]


def _curl(folder: Path, source: Path, url: str) -> Sequence[str]:
    """Many files in one command, fifty at once; the pairs of file and URL stand in a file."""
    pairs = "".join(f'upload-file = "{path}"\nurl = "{url}{quote(path.name)}"\n' for path in sorted(source.iterdir()))
    config = folder / "curl.conf"
    config.write_text(pairs)
    return ["curl", "--silent", "--show-error", "--fail", "--no-progress-meter", "--parallel", "--config", str(config)]


@contextmanager
def _rclone(folder: Path, source: Path) -> Iterator[Receiver]:
    port, arrived = free_port(), folder / "arrived"
    arrived.mkdir()
    rclone = _path("rclone")
    nothing = folder / "rclone.conf"
    nothing.touch()
    options = ("--config", str(nothing))
    serve = ("serve", "webdav", str(arrived), "--addr", f"127.0.0.1:{port}")
    program = Program(folder, "rclone", rclone, *serve, *options)
    with _answering(program, port):
        url = ("--webdav-url", f"http://127.0.0.1:{port}/", "--webdav-vendor", "other")
        yield Receiver(program.pid, [rclone, "copy", str(source), ":webdav:/", *url, *options], arrived)


@contextmanager
def tus_server(folder: Path, place: Place) -> Iterator[tuple[Program, str, Path]]:
    """@tus/server with its file store: the process, the URL to create uploads at, and where the files are."""
    port, arrived = free_port(), folder / "arrived"
    arrived.mkdir()
    command = (_path("node"), str(HERE / "server.mjs"), str(PEERS), place.host, str(port), str(arrived))
    program = Program(folder, "tus-server", *_found((*place.far, *command)))
    with serving(program, "listening"):
        yield program, f"http://{place.host}:{port}/files", arrived


def tus_js(place: Place = LOOPBACK) -> Callable[[Path, Path], AbstractContextManager[Receiver]]:
    """tus-js-client to @tus/server."""

    @contextmanager
    def receiver(folder: Path, source: Path) -> Iterator[Receiver]:
        with tus_server(folder, place) as (program, url, arrived):
            command = [*place.near, _path("node"), str(HERE / "client.cjs"), str(PEERS), url, str(source)]
            yield Receiver(program.pid, command, arrived, ".json")

    return receiver


def tuspy(place: Place = LOOPBACK) -> Callable[[Path, Path], AbstractContextManager[Receiver]]:
    """tuspy to @tus/server."""

    @contextmanager
    def receiver(folder: Path, source: Path) -> Iterator[Receiver]:
        with tus_server(folder, place) as (program, url, arrived):
            python = str(PEERS / "tuspy/bin/python")
            command = [*place.near, python, str(HERE / "client.py"), url, str(source)]
            yield Receiver(program.pid, command, arrived, ".json")

    return receiver


def _path(program: str) -> str:
    return shutil.which(program) or program


def _found(command: Sequence[str]) -> Sequence[str]:
    """With the whole path of the program: where a name alone is looked for beside our own programs."""
    return (_path(command[0]), *command[1:])


NEVER_MEASURED = (
    "Syncthing: no command of it sends a folder and ends; see the folders that are watched",
    "tusd: not measured; it is in none of the package registries that `make bench-peers` uses",
)
TUS_LACKS = lacks("node", "node_modules/@tus/server", "node_modules/@tus/file-store")
CURL = Contender(
    "curl to nginx",
    "nothing",
    "no",
    _nginx,
    "curl --upload-file FILE URL (many: --parallel --config LIST)",
    lacks("curl", "nginx"),
)
RCLONE = Contender(
    "rclone to rclone",
    "sizes",
    "no",
    _rclone,
    "rclone copy FOLDER :webdav:/ (to `rclone serve webdav`)",
    lacks("rclone"),
)
TUS_JS = Contender(
    "tus-js-client to @tus/server",
    "nothing",
    "no",
    tus_js(),
    "tus-js-client, one stream a file, four files at once",
    lambda: TUS_LACKS() or lacks("node_modules/tus-js-client")(),
)
TUSPY = Contender(
    "tuspy to @tus/server",
    "nothing",
    "no",
    tuspy(),
    "tuspy, chunks of 64 MiB, one file after the other",
    lambda: TUS_LACKS() or lacks("tuspy/bin/python")(),
)
OTHERS = (CURL, TUSPY, TUS_JS, RCLONE)
