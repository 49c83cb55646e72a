"""Starting, stopping, being killed, running twice, running out of disk: real processes on real folders."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.server import start
from chunkyd.settings import Limits, ServerSettings
from tests.server.process import Client, ServerProcess, Session, read_all, serving, sha, wait_until

MIB = 1 << 20


def again(session: Session, server: ServerProcess) -> Session:
    """The same session on a new connection."""
    return Session(server.client(), session.data, session.file_hash, session.reply)


def test_killed_at_any_point_it_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle of chunks: what was answered is stored, nothing else is needed, the file is whole."""
    data = os.urandom(4 * MIB)
    with serving(tmp_path) as server:
        session = server.client().initiate(data, b"f", key="k")
        answered: set[int] = set()
        for _ in range(3):
            _send_and_kill(server, session, answered)
            server.start()
            missing = again(session, server).status().json["missingRanges"]
            for begin in answered:
                assert not any(first <= begin <= last for first, last in missing)
        session = again(session, server)
        for first, last in session.status().json["missingRanges"]:
            for begin in range(first, last + 1, MIB):
                assert session.put(begin, min(begin + MIB, last + 1)).status == 200
        wait_until(lambda: session.status().json["status"] == "complete")
        assert sha(server.file("f").read_bytes()) == session.file_hash
        assert session.client.initiate(data, b"f", key="k").id == session.id


def _send_and_kill(server: ServerProcess, session: Session, answered: set[int]) -> None:
    """Three more chunks answered, others on their way, then kill -9."""
    sending = again(session, server)

    def send() -> None:
        for begin in range(0, len(session.data), 256 << 10):
            try:
                if begin not in answered and sending.put(begin, begin + (256 << 10)).status == 200:
                    answered.add(begin)
            except OSError:
                return

    enough = len(answered) + 3
    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: len(answered) >= enough or not thread.is_alive())
    server.kill()
    thread.join()


def test_killed_while_it_verifies_it_verifies_again(tmp_path: Path) -> None:
    """All bytes stored, then kill -9 at once: after the start it completes without a client."""
    data = os.urandom(48 * MIB)
    with serving(tmp_path) as server:
        session = server.client().initiate(data, b"f")
        assert session.put(0, 40 * MIB).status == 200
        threading.Thread(target=lambda: _quietly(session), daemon=True).start()
        wait_until(lambda: not again(session, server).status().json["missingRanges"])
        server.kill()
        server.start()
        wait_until(lambda: again(session, server).status().json["status"] == "complete", 20)
        assert sha(server.file("f").read_bytes()) == session.file_hash


def _quietly(session: Session) -> None:
    try:
        session.put(40 * MIB, 48 * MIB)
    except OSError:
        return


def test_a_clean_stop_refuses_what_is_not_through(tmp_path: Path) -> None:
    """SIGTERM with a stuck chunk: new ones get shutting-down, the stuck one too; exit 0 within 10 s."""
    with serving(tmp_path) as server:
        data = os.urandom(MIB)
        session = server.client().initiate(data, b"f")
        assert session.put(0, 1000).status == 200
        other = again(session, server)
        other.status()
        with socket.create_connection(("127.0.0.1", server.port), timeout=12) as stuck:
            stuck.sendall(session.raw_head(1000, 2000) + data[1000:1500])
            wait_until(lambda: session.in_progress(1000))
            begun = time.monotonic()
            assert server.process is not None
            server.process.terminate()
            reply = wait_until(lambda: _refused(other))
            assert reply.headers["connection"] == "close" and int(reply.headers["retry-after"]) >= 1
            assert b"shutting-down" in read_all(stuck, 10)
            assert server.process.wait(10) == 0
            assert time.monotonic() - begun < 10
        server.start()
        first, last = again(session, server).status().json["missingRanges"][0]
        assert first == 1000 and last >= 1999  # behind it a chunk may have come through before the stop was heard


def _refused(session: Session) -> object:
    reply = session.put(5000, 5100)
    return reply if reply.problem == "shutting-down" else None


def test_a_clean_stop_lets_chunks_end(tmp_path: Path) -> None:
    """A chunk that is on its way when SIGTERM comes, and goes on, is stored and answered."""
    with serving(tmp_path) as server:
        data = os.urandom(MIB)
        session = server.client().initiate(data, b"f")
        with socket.create_connection(("127.0.0.1", server.port), timeout=12) as connection:
            connection.sendall(session.raw_head(0, MIB) + data[:100])
            wait_until(lambda: session.in_progress(0))
            assert server.process is not None
            server.process.terminate()
            wait_until(lambda: server.lines(" stopping"))
            connection.sendall(data[100:])
            assert b"200 OK" in read_all(connection, 5)
        assert server.process.wait(10) == 0
        assert server.file("f").read_bytes() == data


def test_an_idle_server_stops_at_once(tmp_path: Path) -> None:
    """Kept-alive connections that are idle hold nothing up."""
    with serving(tmp_path) as server:
        clients = [server.client() for _ in range(5)]
        for client in clients:
            client.request("GET", "/healthz")
        begun = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begun < 5


def test_it_says_where_it_listens(tmp_path: Path) -> None:
    """Once, on stdout; where stdout takes nothing (a full disk) in the log, and the server goes on."""
    with serving(tmp_path) as server:
        assert server.log().count("listening on") == 1
        server.kill()
        server.stdout = Path("/dev/full")
        server.start()
        assert server.client().request("GET", "/healthz").status == 200
        assert server.terminate() == 0
        assert server.log().count("listening on") == 2


def test_one_server_for_a_folder_and_a_port(tmp_path: Path) -> None:
    """A second server on the same folder, or the same port, refuses to start and says why."""
    with serving(tmp_path) as server:
        second = ServerProcess(tmp_path / "second")
        (tmp_path / "second").mkdir()
        second.settings["data_dir"] = str(server.data)
        same_folder = second.command("run")
        assert same_folder.returncode == 1 and str(server.process and server.process.pid) in same_folder.stderr
        third = ServerProcess(tmp_path / "second", listen=f"127.0.0.1:{server.port}")
        same_port = third.command("run")
        assert same_port.returncode == 1 and str(server.port) in same_port.stderr
        assert "Traceback" not in same_folder.stderr + same_port.stderr


def test_serve_as_a_function(tmp_path: Path) -> None:
    """For programs that embed it: port 0, the real port told, stopped by an event."""
    ports: list[int] = []
    stop = threading.Event()
    settings = ServerSettings(data_dir=str(tmp_path / "d"), port=0, auth="open", limits=Limits(reserve=0))
    thread = threading.Thread(target=start.serve, args=(settings,), kwargs={"ready": ports.append, "stop": stop})
    thread.start()
    wait_until(lambda: ports)
    Client(ports[0]).upload(b"hello", b"f")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert (tmp_path / "d" / "files" / "local" / "f").read_bytes() == b"hello"


def test_tls(tmp_path: Path) -> None:
    """With a certificate it speaks TLS and nothing else; without a usable one it does not start (78)."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, *subject, "-keyout", key, "-out", certificate, "-days", "2"], check=True, capture_output=True
    )
    tls = {"certificate": str(certificate), "key": str(key)}
    with serving(tmp_path, tls=tls) as server:
        trust = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trust, timeout=5)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        assert b"200 OK" not in server.client().raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", wait=1)
        connection.close()
        assert server.terminate() == 0
        key.write_text("nonsense")
        bad = server.command("run")
        assert bad.returncode == 78 and "Traceback" not in bad.stderr


def test_expiry_with_a_short_life(tmp_path: Path) -> None:
    """410 to its owner, then the janitor clears everything away; a stored chunk renews."""
    limits = {"reserve": "0B", "session_ttl": "1s"}
    with serving(tmp_path, limits=limits) as server:
        session = server.client().initiate(b"x" * 100, b"f")
        for begin in range(0, 30, 10):
            time.sleep(0.5)  # life passing, not a wait for anything
            assert session.put(begin, begin + 10).status == 200
        wait_until(lambda: session.status().problem == "session-expired", 4)
        assert session.end().problem == "session-not-found"
        wait_until(lambda: not list((server.data / "partial").iterdir()), 4)
        wait_until(lambda: session.status().problem == "invalid-session-id", 6)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Take all that is left, to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        size = MIB
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return ballast


def test_a_full_disk_can_be_emptied(tmp_path: Path, small_disk: Path) -> None:
    """Without a free byte uploads are ended, complete ones too, and expire: only so can there be room again."""
    limits = {"reserve": "0B", "session_ttl": "3s"}
    with serving(tmp_path, data_dir=str(small_disk / "data"), limits=limits) as server:
        server.data = small_disk / "data"
        client = server.client()
        done = client.upload(os.urandom(1000), b"done")
        ended, expiring = (client.initiate(os.urandom(MIB), path) for path in (b"ended", b"expiring"))
        assert ended.put(0, 1000).status == expiring.put(0, 1000).status == 200
        fill(small_disk)
        assert client.initiate(b"more", b"more").reply.problem == "storage-full"
        assert done.end().json == {"result": "ended"}
        assert ended.end().json == {"result": "cancelled"}
        assert ended.status().problem == "invalid-session-id"
        fill(small_disk)
        wait_until(lambda: not os.listdir(server.data / "partial"), 20)
        wait_until(lambda: expiring.status().problem == "session-expired")
        assert client.request("GET", "/readyz").status == 200


def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    """No room at initiate: 507 with members. Filled by somebody else later: the session stays, and ends well."""
    with serving(tmp_path, data_dir=str(small_disk / "data"), limits={"reserve": "1MiB"}) as server:
        server.data = small_disk / "data"
        client = server.client()
        too_big = client.initiate(os.urandom(9 * MIB), b"big").reply
        assert (too_big.status, too_big.problem) == (507, "storage-full")
        assert too_big.json["requiredBytes"] == 9 * MIB and 0 < too_big.json["availableBytes"] < 8 * MIB
        assert int(too_big.headers["retry-after"]) > 0
        data = os.urandom(3 * MIB)
        session = client.initiate(data, b"f")
        assert session.put(0, MIB).status == 200
        ballast = fill(small_disk)
        reply = session.put(MIB, 2 * MIB)
        assert reply.status in (200, 507)
        assert all(first >= MIB for first, _ in session.status().json["missingRanges"])
        assert session.status().status == 200 and client.request("GET", "/healthz").status == 200
        assert client.request("GET", "/readyz").status == 503
        assert client.initiate(os.urandom(MIB), b"other").reply.problem == "storage-full"
        ballast.unlink()
        for first, last in session.status().json["missingRanges"]:
            wait_until(lambda first=first, last=last: session.put(first, last + 1).status == 200)
        wait_until(lambda: session.status().json["status"] == "complete", 20)
        assert server.file("f").read_bytes() == data
        assert client.request("GET", "/readyz").status == 200
        assert server.terminate() == 0
    shutil.rmtree(small_disk / "data")


def test_a_thousand_trickling_uploads(tmp_path: Path) -> None:
    """A thousand clients hold a chunk open each: status answers, another upload goes through, memory stays small."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with serving(tmp_path) as server:
        client = server.client()
        size = 256 << 10
        data = os.urandom(1000 * size)
        session = client.initiate(data, b"shared")
        connections = []
        try:
            for number in range(1000):
                begin = number * size
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
                connections.append(connection)
                connection.sendall(session.raw_head(begin, begin + size) + data[begin : begin + 40_000])
            wait_until(lambda: session.in_progress(999 * size), 20)
            client.upload(os.urandom(20 * MIB), b"beside")
            assert server.memory() < 250 * MIB
            for number in (0, 500, 999):
                begin = number * size
                connections[number].sendall(data[begin + 40_000 : begin + size])
                assert connections[number].recv(65536).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in connections:
                connection.close()
        wait_until(lambda: session.put(0, 2 * size).status == 200)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 300 MiB through one server takes no more than 100 MiB of it."""
    block = os.urandom(20 * MIB)
    data = block * 15
    with serving(tmp_path) as server:
        session = server.client().initiate(data, b"f")
        for begin in range(0, len(data), 20 * MIB):
            assert session.put(begin, begin + 20 * MIB).status == 200
        wait_until(lambda: session.status().json["status"] == "complete", 30)
        assert server.memory() < 100 * MIB
