"""Memory of every program, whatever the file's size and the number of clients; and what an idle daemon costs."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.client import Client
from benchmarks.harness import (
    GIBIBYTE,
    LONGEST_RUN,
    MEBIBYTE,
    cpu_seconds,
    ended_within,
    random_file,
    resident,
)
from benchmarks.rows import Findings, Row, at_most, row
from tests.e2e.programs import BIN, Daemon, Program, Server, wait_until

TITLE = "Memory"
ABOUT = (
    "The most each program ever held (VmHWM) while a file of 2 GiB is sent; the server with 1,000 uploads at once that "
    "have each sent half of a chunk of 1 MiB and say no more; a daemon that has nothing to do."
)
MOST, MOST_WITH_MANY, MOST_IDLE = 100.0, 250.0, 60.0  # MiB
MOST_IDLE_CPU = 0.1  # percent of one processor
CHUNK = MEBIBYTE


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """2 GiB, 1,000 clients, a minute of idling; 256 MiB, 100 and five seconds when quick. Once: it does not vary."""
    size, clients, seconds = (GIBIBYTE // 4, 100, 5) if quick else (2 * GIBIBYTE, 1000, 60)
    by_hand, by_daemon, many = work / "by-hand", work / "by-daemon", work / "many"
    for each in (by_hand, by_daemon, many):
        each.mkdir()
    return Findings(
        rows=(
            *_by_hand(by_hand, size),
            *_by_daemon(by_daemon, size, seconds),
            row(
                f"server, {clients} slow uploads at once",
                "MiB",
                [_with_many(many, clients)],
                goal=at_most(MOST_WITH_MANY),
            ),
        )
    )


def _by_hand(work: Path, size: int) -> list[Row]:
    file = random_file(work / "file.bin", size)
    server = Server(work)
    try:
        server.start()
        command = [str(BIN / "chunky"), "upload", str(file), "--to", server.url, "--state", str(work / "state.sqlite3")]
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with _ending(client):
            most = _watched(client.pid, lambda: client.poll() is not None)
        if client.returncode:
            raise RuntimeError(f"chunky upload ended with {client.returncode}")
        return [
            row(
                "chunky upload, one big file", "MiB", [most], goal=at_most(MOST), command="chunky upload FILE --to URL"
            ),
            row("server, one big file", "MiB", [resident(server.pid, "VmHWM")], goal=at_most(MOST)),
        ]
    finally:
        server.kill()
        file.unlink()


def _by_daemon(work: Path, size: int, seconds: float) -> list[Row]:
    """The daemon while it sends the file, and another that has nothing to send."""
    outbox = work / "outbox"
    outbox.mkdir()
    server = Server(work)
    daemon = Daemon(work, server.url, [{"path": str(outbox)}])
    try:
        server.start()
        daemon.start()
        memory, cpu = _idle(daemon, seconds)
        random_file(outbox / "file.bin", size)
        arrived = server.files() / "outbox" / "file.bin"
        wait_until("the file arrives", arrived.exists, LONGEST_RUN, daemon.text)
        return [
            row("chunkyd, one big file", "MiB", [resident(daemon.pid, "VmHWM")], goal=at_most(MOST)),
            row("chunkyd, idle", "MiB", [memory], goal=at_most(MOST_IDLE)),
            row("chunkyd, idle, processor", "%", [cpu], goal=at_most(MOST_IDLE_CPU), note=f"over {seconds:g} s"),
        ]
    finally:
        ended_within(daemon, 30)
        server.kill()


def _idle(daemon: Program, seconds: float) -> tuple[float, float]:
    """MiB, and percent of a processor."""
    time.sleep(3)  # the start has work of its own
    before = cpu_seconds(daemon.pid)
    time.sleep(seconds)
    return resident(daemon.pid), 100 * (cpu_seconds(daemon.pid) - before) / seconds


def _with_many(work: Path, clients: int) -> float:
    """MiB of a server at which so many clients, each with a session of its own, stopped in the middle of a chunk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * clients + 200)), hard))
    server = Server(work)
    chunk = b"\x55" * CHUNK
    try:
        server.start()
        asking = Client(server.port)
        with contextlib.ExitStack() as stack:
            for number in range(clients):
                session = asking.initiate(b"slow-%d" % number, CHUNK)
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
                connection.sendall(session.raw_head(0, chunk) + chunk[: CHUNK // 2])
            time.sleep(2)  # what the kernel still holds is read by then
            return resident(server.pid, "VmHWM")
    finally:
        server.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _watched(pid: int, ended: Callable[[], bool]) -> float:
    """The most a process held until it has ended; looked at every 20 ms, since its end takes the figure away."""
    most, pause = 0.0, threading.Event()
    while not ended():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            most = max(most, resident(pid, "VmHWM"))
        pause.wait(0.02)
    return most


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()
