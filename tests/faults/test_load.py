"""The server under load: slow clients by the thousand, heads that never end, no memory left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkyd.protocol.messages import MAX_HEAD_BYTES
from chunkyd.server.threads import COPIERS, HASHERS, RECORDERS, WRITERS, Threads
from tests.e2e.programs import Server, run, running, tree
from tests.e2e.programs import wait_until as wait_for
from tests.server.process import ServerProcess, serving, wait_until

MIB = 1 << 20
SLOW = 1000
ENOUGH = 1 + WRITERS + RECORDERS + HASHERS + COPIERS  # threads of a server
_USER_OF_ITS_OWN = 61234  # who has no other processes


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * SLOW:
        pytest.skip(f"a thousand clients need more open files than {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * SLOW), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "piece", [4096, pytest.param(256 << 10, marks=pytest.mark.long), pytest.param(1 << 20, marks=pytest.mark.long)]
)
def test_a_thousand_slow_clients_beside_fast_ones(tmp_path: Path, many_files: None, piece: int) -> None:
    """Each of a thousand holds a chunk half sent: fast ones pass, memory stays small, and then all slow ones finish."""
    data = os.urandom(SLOW * piece)
    begun = piece * 3 // 4  # of the bigger ones more, together, than the server may hold
    with serving(tmp_path) as server, contextlib.ExitStack() as stack:
        session = server.client().initiate(data, b"slow")
        slow = []
        for start in range(0, len(data), piece):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            connection.sendall(session.raw_head(start, start + piece) + data[start : start + begun])
            slow.append(connection)
        wait_until(lambda: session.in_progress(len(data) - piece), 30)
        fast = [os.urandom(4 * MIB) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: server.client().upload(fast[number], b"fast-%d" % number), range(4)))
        assert all(server.file(f"fast-{number}").read_bytes() == fast[number] for number in range(4))
        assert server.memory() < 250 * MIB
        assert session.status().json["missingRanges"] == [[0, len(data) - 1]]
        for number, connection in enumerate(slow):
            start = number * piece
            connection.sendall(data[start + begun : start + piece])
        for connection in slow:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: session.status().json["status"] == "complete", 30)
        assert server.file("slow").read_bytes() == data
        assert not server.lines(" error ")


def test_heads_that_never_end_hold_up_nobody(tmp_path: Path, many_files: None) -> None:
    """Five hundred connections with most of a head, and five hundred that say nothing: a client beside them works."""
    with serving(tmp_path) as server, contextlib.ExitStack() as stack:
        for number in range(SLOW):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            if number % 2:
                head = b"PATCH /uploadChunk HTTP/1.1\r\nHost: localhost\r\nChunky-Session: "
                connection.sendall(head.ljust(MAX_HEAD_BYTES - 1, b"x"))
        data = os.urandom(MIB)
        server.client().upload(data, b"fast")
        assert server.file("fast").read_bytes() == data
        assert server.memory() < 250 * MIB


@pytest.mark.parametrize("left", [1, 8, 24])
def test_no_memory_left(tmp_path: Path, left: int) -> None:
    """With next to no memory requests are refused or served; nothing is lost, and with memory again all go on."""
    data = os.urandom(MIB)
    with serving(tmp_path, limits={"reserve": "0B", "chunk": "1MiB"}) as server:
        assert server.process is not None
        server.client().upload(data, b"before")
        used = _virtual_bytes(server)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (used + left * MIB, resource.RLIM_INFINITY))
        statuses = _many_at_once(server, 24)
        assert set(statuses) <= {200, 201, 500, 503, 507}
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert _many_at_once(server, 24) == [200] * 24
        server.kill()
        server.start()
        assert _many_at_once(server, 24) == [200] * 24
        assert server.file("before").read_bytes() == data
        assert not list((server.data / "files").rglob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a limit of threads for a user of its own takes root")
def test_a_limit_of_threads(tmp_path: Path) -> None:
    """`ulimit -u`: too few, and the server says so and does not start; with what it began with it serves many."""
    server = Server(tmp_path)
    command = server._command
    may = "+dac_override,+dac_read_search"  # this user has no rights of its own here
    user = ["setpriv", "--reuid", str(_USER_OF_ITS_OWN), "--inh-caps", may, "--ambient-caps", may]
    for threads in (1, 2, 5, *range(ENOUGH - 4, ENOUGH)):
        server._command = [*user, "prlimit", f"--nproc={threads}", *command]
        before = len(server.text()) if server.process else 0
        server.begin()
        wait_for("it has ended", lambda: not server.running(), 20, server.text)
        assert server.process is not None and server.process.returncode == 1
        assert server.text()[before:].startswith("chunky-server: No thread can be started: "), server.text()
        assert "TasksMax=" in server.text()[before:] and "panicked" not in server.text()
    server._command = [*user, "prlimit", f"--nproc={ENOUGH}", *command]
    with running(server):
        wait_for("all have begun", lambda: len(os.listdir(f"/proc/{server.pid}/task")) == ENOUGH, 10)
        # All it may have: what needed one more from here on would not get it.
        (tmp_path / "box").mkdir()
        for number in range(24):
            (tmp_path / "box" / f"file{number}").write_bytes(os.urandom(4 * MIB))
        run(
            "chunky",
            "upload",
            "--recursive",
            str(tmp_path / "box"),
            "--to",
            server.url,
            "--state",
            str(tmp_path / "state.sqlite3"),
        )
        assert tree(server.files() / "box") == tree(tmp_path / "box")
        assert server.stop() == 0


def test_no_thread_left() -> None:
    """All threads the server works with are there from its start: none that fails to begin leaves half-done work."""
    before = set(threading.enumerate())
    pools = Threads()
    begun = set(threading.enumerate()) - before
    assert len(begun) == WRITERS + RECORDERS + HASHERS + COPIERS

    async def work() -> None:
        await asyncio.gather(*(pools.write(os.getpid) for _ in range(100)), *(pools.hash(os.getpid) for _ in range(9)))

    asyncio.run(work())
    assert set(threading.enumerate()) - before == begun
    pools.close()


def _virtual_bytes(server: ServerProcess) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmSize:")[2].split()[0]) * 1024


def _many_at_once(server: ServerProcess, number: int) -> list[int]:
    """What so many clients with a file each are answered; those whose connection dies are not among them."""
    statuses: list[int] = []
    guard = threading.Lock()

    def one(which: int) -> None:
        data = os.urandom(MIB)
        with contextlib.suppress(OSError, AssertionError):
            session = server.client().initiate(data, b"under-%d" % which)
            reply = session.put(0, len(data)) if session.reply.status == 201 else session.reply
            with guard:
                statuses.append(reply.status)

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(one, range(number)))
    return statuses
