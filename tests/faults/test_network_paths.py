"""The way to the server: slow and far, over proxies, by names that fail or move, over IPv6, through sleep."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from chunkyd.errors import Problem
from chunkyd.protocol.problems import problem, to_document
from chunkyd.upload import Client
from chunkyd.upload.body import Body
from chunkyd.upload.source import Source
from tests.e2e.programs import Daemon, Server, run, running, sha256, wait_until
from tests.faults.certificates import Authority
from tests.faults.relay import ForwardProxy, Relay
from tests.upload.faultproxy import FaultProxy
from tests.upload.netfaults import Answer, Break, Fault

MIB = 1 << 20
UPLOADS = {"retry": {"base": "50ms", "max": "300ms"}, "chunk_size": "1MiB", "parallel_chunks": 2}


def a_daemon(folder: Path, url: str, **options: object) -> Daemon:
    """Over `outbox`."""
    (folder / "outbox").mkdir()
    return Daemon(folder, url, [{"path": str(folder / "outbox")}], **{"uploads": UPLOADS, **options})


def put(folder: Path, name: str = "file", size: int = 3 * MIB) -> Path:
    """A file in the box, there at once."""
    temporary = folder / "making"
    temporary.write_bytes(os.urandom(size))
    return temporary.rename(folder / "outbox" / name)


def arrives(server: Server, daemon: Daemon, file: Path, user: str = "local") -> None:
    """Whole, and nothing is left to do."""
    published = server.files(user) / "outbox" / file.name
    wait_until("it arrives", published.exists, 60, daemon.text)
    assert sha256(published) == sha256(file)
    wait_until("no job is left", lambda: not ControlClient(str(daemon.socket)).jobs().jobs, 30, daemon.text)
    assert "Traceback" not in daemon.text() + server.text()


def offline(daemon: Daemon) -> str:
    """What holds the queue, in words; empty where nothing does."""
    held = ControlClient(str(daemon.socket)).status().held
    return held.what if held is not None else ""


# Far and slow


def test_a_refusal_in_the_middle_of_a_long_body_over_a_far_link(tmp_path: Path) -> None:
    """150 ms away and 1 MiB/s, the server refuses from the head: the client hears why, long before all is sent."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MIB) * 16)
    server = Server(tmp_path)
    with running(server), Relay(server.port, delay=0.15, rate=MIB) as far:
        source = Source(str(path))
        with contextlib.closing(Client(f"http://127.0.0.1:{far.port}")) as client, contextlib.closing(source):
            body = Body(source, (0, source.size), None, lambda: None, lambda count: None)
            with pytest.raises(Problem) as caught:
                client.chunk("no-such-session-000000", "0" * 64, (0, source.size), source.size, bytes(4), body)
    assert caught.value.name == "invalid-session-id"
    assert far.up < 12 * MIB


@pytest.mark.long
def test_a_file_over_a_far_slow_link(tmp_path: Path) -> None:
    """50 ms away, 2 MiB/s, cut every now and then in the middle: it arrives, and little is sent twice."""
    server = Server(tmp_path)
    with running(server), Relay(server.port, delay=0.05, rate=2 * MIB) as far:
        far.cut = lambda number: 700_000 if number in (2, 4) else None
        daemon = a_daemon(tmp_path, f"http://127.0.0.1:{far.port}")
        with running(daemon):
            arrives(server, daemon, put(tmp_path))
        assert far.up <= 3 * MIB + 2 * 2 * MIB + 20_000


# Proxies that are configured


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_configured_proxy(tmp_path: Path, scheme: str) -> None:
    """It is used, for https by a tunnel; refusing or dying it is named, and when it is back, so is the upload."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.certificate("server")
    tls = {"tls": {"certificate": str(certificate), "key": str(key)}} if scheme == "https" else {}
    server = Server(tmp_path, **tls)
    with running(server), ForwardProxy() as proxy:
        remote = {"proxy": f"http://127.0.0.1:{proxy.port}", "ca_file": str(authority.ca_file)}
        daemon = a_daemon(tmp_path, f"{scheme}://127.0.0.1:{server.port}", server=remote)
        with running(daemon):
            arrives(server, daemon, put(tmp_path, "one"))
            wanted = f"CONNECT 127.0.0.1:{server.port}" if scheme == "https" else "PATCH http://127.0.0.1"
            assert any(each.startswith(wanted) for each in proxy.asked)
            proxy.refuse_with = b"HTTP/1.1 403 Not from here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            proxy.sever()
            two = put(tmp_path, "two")
            wait_until("it is held", lambda: offline(daemon), 30, daemon.text)
            # A proxy that forwards answers in the server's place; only a tunnel's refusal is known to be the proxy's.
            assert ("the proxy refuses" if scheme == "https" else "403") in offline(daemon)
            proxy.refuse_with, proxy.refusing = b"", True
            proxy.sever()
            time.sleep(0.5)  # some probes meet a proxy that hangs up
            proxy.refusing = False
            arrives(server, daemon, two)


# TLS, to the byte


IN_HEAD_OR_HANDSHAKE = [pytest.param(after, marks=pytest.mark.long) for after in (1, 100, 600, 1500, 100_000)]


@pytest.mark.parametrize("after", [300, 700_001, *IN_HEAD_OR_HANDSHAKE])
def test_tls_cut_in_the_middle_of_a_record(tmp_path: Path, after: int) -> None:
    """In the handshake, in a head, in a chunk: the connection ends in the middle of a record, and it goes on."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.certificate("server")
    server = Server(tmp_path, tls={"certificate": str(certificate), "key": str(key)})
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2 * MIB))
    with running(server), Relay(server.port) as relay:
        relay.cut = lambda number: after if number <= 2 else None
        config = tmp_path / "daemon.yaml"
        config.write_text(
            f"server: {{url: 'https://127.0.0.1:{relay.port}', ca_file: {authority.ca_file}}}\n"
            f"folders: [{{path: {tmp_path / 'nowhere'}}}]\n"
        )
        state = str(tmp_path / "state.sqlite3")
        run("chunky", "upload", "--config", str(config), "--chunk-size", "1MiB", "--state", state, str(file))
        assert relay.connections > 2
    assert sha256(server.files() / "file") == sha256(file)


# Names and addresses


class Names:
    """/etc/hosts and /etc/resolv.conf of the test's own, for programs in a mount namespace."""

    def __init__(self, folder: Path, nameserver: str = "127.0.0.1") -> None:
        self.hosts = folder / "hosts"
        self.resolver = folder / "resolv.conf"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.resolver.write_text(f"nameserver {nameserver}\noptions timeout:1 attempts:1\n")

    def point(self, name: str, address: str) -> None:
        """The name's address from now on; the file stays the one that is mounted."""
        with self.hosts.open("w") as hosts:
            hosts.write(f"127.0.0.1 localhost\n{address} {name}\n" if address else "127.0.0.1 localhost\n")

    def within(self, daemon: Daemon) -> Daemon:
        """The daemon sees them."""
        script = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(self.hosts), str(self.resolver)]
        daemon._command = [*command, *daemon._command]
        return daemon


def needs_root() -> None:
    """Mount namespaces."""
    if os.geteuid() != 0:
        pytest.skip("a hosts file of its own needs root")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")


def with_token(folder: Path) -> tuple[Server, dict[str, object]]:
    """A server that is not open (that would want a loopback name), and what a client needs."""
    server = Server(folder, auth="tokens")
    server.command("user", "add", "cam")
    token = folder / "token"
    token.write_text(server.command("token", "add", "--user", "cam").splitlines()[-1])
    token.chmod(0o600)
    return server, {"token_file": str(token), "allow_plain": True}


@pytest.mark.parametrize("resolver", ["nobody", pytest.param("silent", marks=pytest.mark.long)])
def test_a_name_that_cannot_be_found_and_then_can(tmp_path: Path, resolver: str) -> None:
    """No name server, or one that never answers: held, and said; once the name is there, it arrives by itself."""
    needs_root()
    server, remote = with_token(tmp_path)
    names = Names(tmp_path, "127.0.0.1" if resolver == "nobody" else "127.0.0.77")
    daemon = names.within(a_daemon(tmp_path, f"http://files.invalid:{server.port}", server=remote))
    with contextlib.ExitStack() as stack:
        if resolver == "silent":
            deaf = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            deaf.bind(("127.0.0.77", 53))
        stack.enter_context(running(server, daemon))
        file = put(tmp_path)
        wait_until("it is held", lambda: offline(daemon), 60, daemon.text)
        assert "no answer from http://files.invalid" in offline(daemon)
        assert "name" in offline(daemon).lower()
        names.point("files.invalid", "127.0.0.1")
        arrives(server, daemon, file, "cam")


def test_a_server_that_moves_to_another_address(tmp_path: Path) -> None:
    """The old address is dead: what comes next goes to the new one, without a restart."""
    needs_root()
    server, remote = with_token(tmp_path)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(FaultProxy(server.port, host="127.0.0.2"))
        with FaultProxy(server.port, host="127.0.0.3", port=old.port) as new:
            names = Names(tmp_path)
            names.point("files.invalid", "127.0.0.2")
            daemon = names.within(a_daemon(tmp_path, f"http://files.invalid:{old.port}", server=remote))
            with running(server, daemon):
                arrives(server, daemon, put(tmp_path, "one"), "cam")
                names.point("files.invalid", "127.0.0.3")
                old.plan = lambda seen: Break("head", "reset")
                old.sever()
                arrives(server, daemon, put(tmp_path, "two"), "cam")
                assert old.count("/endUpload") == 1
                assert new.count("/endUpload") == 1


def test_ipv6(tmp_path: Path) -> None:
    """A server on ::1, its address in brackets in the URL."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
    server = Server(tmp_path)
    with running(server), Relay(server.port, host="::1") as six:
        daemon = a_daemon(tmp_path, f"http://[::1]:{six.port}")
        with running(daemon):
            arrives(server, daemon, put(tmp_path))


# Sleep and idle


def test_both_sleep_in_the_middle(tmp_path: Path) -> None:
    """Both ends stand still, their connections die meanwhile: awake again, they finish, and little is sent twice."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        uploads = {**UPLOADS, "bandwidth": "8MiB/s"}
        daemon = a_daemon(tmp_path, proxy.url, uploads=uploads)
        with running(daemon):
            file = put(tmp_path, size=12 * MIB)
            wait_until("a part is there", lambda: proxy.body_bytes > 3 * MIB, 30, daemon.text)
            for program in (daemon, server):
                os.kill(program.pid, signal.SIGSTOP)
            proxy.sever()
            time.sleep(1)  # asleep
            for program in (server, daemon):
                os.kill(program.pid, signal.SIGCONT)
            arrives(server, daemon, file)
            assert proxy.body_bytes <= 12 * MIB + 2 * MIB


def test_a_session_that_cannot_be_ended_is_not_asked_for_without_pause(tmp_path: Path) -> None:
    """Refused, or out of reach, with nothing else to do: a few tries, ever rarer; then, or at last, none is left."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        proxy.plan = lambda seen: Answer(503, linger=0.1) if seen.path == "/endUpload" else None
        daemon = a_daemon(tmp_path, proxy.url)
        with running(daemon):
            published = server.files() / "outbox" / "file"
            put(tmp_path)
            wait_until("it arrives", published.exists, 30, daemon.text)
            wait_until("it was tried", lambda: proxy.count("/endUpload") >= 2, 30, daemon.text)
            began, before = time.monotonic(), proxy.count("/endUpload")
            time.sleep(2)  # a while in which nothing is to happen
            assert proxy.count("/endUpload") - before <= 2 + (time.monotonic() - began)
            document = to_document(problem("invalid-file-hash", "as planned"))
            refusal = Answer(422, document, (("Content-Type", "application/problem+json"),), linger=0.1)
            proxy.plan = lambda seen: refusal if seen.path == "/endUpload" else None
            wait_until("it is left to expire", lambda: "left to expire" in daemon.text(), 30, daemon.text)


def test_a_stop_waits_for_no_answer(tmp_path: Path) -> None:
    """While the daemon, idle, ends a session that was left behind, and nobody answers: it stops all the same."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        faults: list[Fault] = [Answer(503, linger=0.1)]
        proxy.plan = lambda seen: (
            (faults.pop() if faults else Break("work", "silence")) if seen.path == "/endUpload" else None
        )
        daemon = a_daemon(tmp_path, proxy.url)
        with running(daemon):
            put(tmp_path)
            wait_until("it asks again", lambda: proxy.count("/endUpload") >= 2, 30, daemon.text)
            daemon.wait_idle()
            assert daemon.stop(10) == 0


def test_a_stop_waits_for_no_probe(tmp_path: Path) -> None:
    """While the daemon, offline, asks whether the server is there again, and nobody answers: it stops all the same."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        proxy.plan = lambda seen: Break("head", "reset", 1)
        daemon = a_daemon(tmp_path, proxy.url)
        with running(daemon):
            put(tmp_path)
            wait_until("it is held", lambda: offline(daemon), 30, daemon.text)
            asked = len(proxy.requests)
            proxy.plan = lambda seen: Break("work", "silence")
            wait_until("it asks again", lambda: len(proxy.requests) > asked + 1, 60, daemon.text)
            assert daemon.stop(10) == 0


@pytest.fixture
def idle_pair(tmp_path: Path) -> Iterator[tuple[Server, Daemon, FaultProxy]]:
    """Connections kept and idle."""
    server = Server(tmp_path)
    with running(server), FaultProxy(server.port) as proxy:
        daemon = a_daemon(tmp_path, proxy.url)
        with running(daemon):
            arrives(server, daemon, put(tmp_path, "first"))
            yield server, daemon, proxy


def test_connections_that_died_while_idle(tmp_path: Path, idle_pair: tuple[Server, Daemon, FaultProxy]) -> None:
    """Reset while nobody looked: the next file goes over new ones."""
    server, daemon, proxy = idle_pair
    proxy.sever()
    arrives(server, daemon, put(tmp_path, "second"))
