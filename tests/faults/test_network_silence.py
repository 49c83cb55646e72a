"""`make network`: faults that take their time, because half a minute of silence is one of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from tests.e2e.programs import Server, running, sha256, wait_until
from tests.faults.storm import Storm
from tests.faults.test_network_matrix import scripts
from tests.faults.test_network_paths import MIB, a_daemon, arrives, offline, put
from tests.server.process import ServerProcess, serving
from tests.server.process import wait_until as until
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Break, Trickle

pytestmark = pytest.mark.long

SILENT = scripts(("silence",))


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Every connection whose other end is dead without a word, at once: each is given up after 30 s."""
    return Storm(tmp_path_factory.mktemp("silent"), SILENT).rage(90)


@pytest.mark.parametrize("name", SILENT)
def test_a_peer_that_falls_silent(silent: Storm, name: str) -> None:
    """The same as with a reset where neither end is told: both give up what did not move for 30 s."""
    silent.check(name, interruptions=len(SILENT[name]))


def test_one_byte_a_second(tmp_path: Path) -> None:
    """An answer that trickles is given up; the next attempt has another connection, and the file arrives."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        proxy.plan = lambda seen: Trickle(1.0) if seen.number == 1 else None
        daemon = a_daemon(tmp_path, proxy.url)
        with running(daemon):
            file = put(tmp_path)
            published = server.files() / "outbox" / file.name
            wait_until("it arrives", published.exists, 90, daemon.text)
            assert sha256(published) == sha256(file)
            assert proxy.count("/initiateUploadSession") == 2


@pytest.mark.parametrize("tls", [False, True])
def test_a_peer_that_accepts_and_says_nothing(tmp_path: Path, tls: bool) -> None:
    """No answer to the first word, in a TLS handshake neither: held, in words; then on by itself."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        proxy.welcome = lambda number: "silence"
        url = proxy.url.replace("http:", "https:") if tls else proxy.url
        uploads = {"retry": {"attempts": 2, "base": "50ms", "max": "300ms"}}
        daemon = a_daemon(tmp_path, url, uploads=uploads)
        with running(daemon):
            file = put(tmp_path)
            enough = 50 if tls else 120  # two handshakes of 10 s, or two requests of 30 s
            wait_until("it is held", lambda: offline(daemon), enough, daemon.text)
            assert ("timed out" if tls else "nothing moved on the connection") in offline(daemon)
            if not tls:
                proxy.welcome = lambda number: None
                wait_until("it arrives", (server.files() / "outbox" / file.name).exists, 90, daemon.text)
            assert daemon.stop(12) == 0


def test_kept_connections_that_a_nat_forgot(tmp_path: Path) -> None:
    """All of them dead without a word: one stall at most, not one for each, until the next file arrives."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        daemon = a_daemon(tmp_path, proxy.url, uploads={"parallel_chunks": 8, "chunk_size": "256KiB"})
        with running(daemon):
            arrives(server, daemon, put(tmp_path, "first", 8 * MIB))
            kept = proxy.connections
            assert kept > 2
            forgotten: list[Seen] = []

            def plan(seen: Seen) -> Break | None:
                if seen.connection > kept:
                    return None
                forgotten.append(seen)
                return Break("head", "silence", 1)

            proxy.plan = plan
            arrives(server, daemon, put(tmp_path, "second", MIB))
            assert len(forgotten) <= 1


def test_clients_that_are_gone_free_what_they_held(tmp_path: Path) -> None:
    """Half heads and half bodies of clients that never say goodbye: connections, files and ranges are free again."""
    data = os.urandom(100_000)
    with serving(tmp_path) as server, contextlib.ExitStack() as stack:
        session = server.client().initiate(data, b"file")
        session.status()
        before = _held(server)
        for number in range(60):
            gone = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            head = session.raw_head(number * 1000, (number + 1) * 1000)
            gone.sendall(head[:50] if number % 2 else head + b"x" * 500)
        until(lambda: session.in_progress(58_000), 10)
        until(lambda: _held(server) <= before, 90)
        assert session.put(0, len(data)).status == 200
        until(lambda: session.status().json["status"] == "complete", 10)


def _held(server: ServerProcess) -> int:
    """Connections and open partials; other files are the catalog's."""
    assert server.process is not None
    held = 0
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            held += target.startswith("socket:") or "/partial/" in target
    return held


def test_a_server_nobody_reaches(tmp_path: Path) -> None:
    """Packets to it are dropped: the connect is given up after 10 s, and said."""
    server = Server(tmp_path)
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the queue is full; what comes now gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        uploads = {"retry": {"attempts": 2, "base": "50ms", "max": "300ms"}}
        daemon = a_daemon(tmp_path, f"http://127.0.0.1:{full.getsockname()[1]}", uploads=uploads)
        with running(server, daemon):
            put(tmp_path)
            wait_until("it is held", lambda: offline(daemon), 50, daemon.text)  # twice 10 s
            assert "timed out" in offline(daemon)
            stopped: list[int] = []
            stopping = threading.Thread(target=lambda: stopped.append(daemon.stop(15)))
            stopping.start()
            stopping.join(20)
            assert stopped == [0]
