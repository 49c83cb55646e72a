"""The client's connections against peers that misbehave, on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkyd.errors import ConfigError, Interrupted, NetworkError, NotChunky, Problem, SourceChanged
from chunkyd.protocol.problems import problem, to_document
from chunkyd.upload import Client, Limiter, connection
from chunkyd.upload.body import Body
from chunkyd.upload.connection import Switch
from chunkyd.upload.source import Source
from chunkyd.upload.transport import _prepared

TOKEN = "very-secret-token"


class Peer:
    """A listener that does one thing with every connection."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._behave = behave
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(connected,), daemon=True).start()

    def _one(self, connected: socket.socket) -> None:
        with connected:
            try:
                self._behave(connected)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[socket.socket], None]], Peer]]:
    peers: list[Peer] = []

    def start(behave: Callable[[socket.socket], None]) -> Peer:
        peers.append(Peer(behave))
        return peers[-1]

    yield start
    for each in peers:
        each.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1024 * 1024) * 24)
    source = Source(str(path))
    yield source
    source.close()


def read_head(connected: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connected.recv(65536)
        if not piece:
            raise OSError
        head += piece
    return head


def reply(connected: socket.socket, status: int, body: bytes, *headers: str) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    connected.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def send(client: Client, source: Source, switch: Switch | None = None, limiter: Limiter | None = None) -> str:
    body = Body(source, (0, source.size), limiter, lambda: None, lambda count: None)
    return client.chunk("s", "0" * 64, (0, source.size), source.size, b"\0\0\0\0", body, switch)


def test_an_early_answer_is_read_while_the_body_is_being_sent(peer, source: Source) -> None:
    """A server that refuses from the head alone is heard, and no more of the body goes out than was under way."""
    received = []

    def refuse(connected: socket.socket) -> None:
        read_head(connected)
        found = problem("chunk-too-large", "no", maxChunkBytes=5)
        reply(connected, 413, to_document(found), "Content-Type: application/problem+json")
        connected.settimeout(5)
        total = 0
        while piece := connected.recv(1 << 16):
            total += len(piece)
            time.sleep(0.001)
        received.append(total)

    there = peer(refuse)
    client = Client(there.url)
    with pytest.raises(Problem) as caught:
        send(client, source)
    assert caught.value.members["maxChunkBytes"] == 5
    client.close()
    deadline = time.monotonic() + 10
    while not received and time.monotonic() < deadline:
        time.sleep(0.01)
    assert received[0] < source.size


def test_an_answer_before_a_reset_is_read(peer, source: Source) -> None:
    """A server that answers and closes at once, so that sending fails, is heard all the same."""

    def refuse(connected: socket.socket) -> None:
        read_head(connected)
        reply(connected, 409, to_document(problem("chunk-in-progress", "")), "Connection: close")

    client = Client(peer(refuse).url)
    outcomes = []
    for _ in range(5):
        with pytest.raises((Problem, NetworkError)) as caught:
            send(client, source)
        outcomes.append(caught.type)
    assert Problem in outcomes
    client.close()


def test_a_connection_is_kept_and_one_with_an_unfinished_body_is_not(peer, source: Source) -> None:
    """Requests share a connection; after a refusal in the middle of a body the next request opens another."""

    def behave(connected: socket.socket) -> None:
        while True:
            head = read_head(connected)
            if head.startswith(b"PATCH"):
                reply(connected, 409, to_document(problem("chunk-in-progress", "")))
                while connected.recv(1 << 16):
                    pass
                return
            reply(connected, 200, b'{"status": "ok"}')

    there = peer(behave)
    client = Client(there.url)
    client.ready()
    client.ready()
    assert there.connections == 1
    with pytest.raises(Problem):
        send(client, source)
    client.ready()
    assert there.connections == 2
    client.close()


@pytest.mark.parametrize(("idle", "connections"), [(19.0, 1), (21.0, 2)])
def test_a_connection_that_was_idle_too_long_is_not_used_again(
    peer, monkeypatch: pytest.MonkeyPatch, idle: float, connections: int
) -> None:
    """After 20 s, and it counts while the machine sleeps: whoever is on the way may have forgotten it."""

    def behave(connected: socket.socket) -> None:
        while read_head(connected):
            reply(connected, 200, b'{"status": "ok"}')

    there = peer(behave)
    client = Client(there.url)
    client.ready()
    later = time.clock_gettime(time.CLOCK_BOOTTIME) + idle
    monkeypatch.setattr("chunkyd.upload.connection._awake_or_asleep", lambda: later)
    client.ready()
    assert there.connections == connections
    client.close()


def test_a_connection_found_dead_makes_its_neighbours_suspect(peer) -> None:
    """What killed one may have killed all that were kept: requests after that have new ones, and are answered."""
    together = threading.Barrier(2)  # at any time two requests are under way, so each has a connection of its own

    def behave(connected: socket.socket) -> None:
        read_head(connected)
        together.wait(10)
        reply(connected, 200, b'{"status": "ok"}')
        read_head(connected)  # and ends the connection

    there = peer(behave)
    with contextlib.closing(Client(there.url)) as client, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: client.ready(), range(2)))
        with pytest.raises(NetworkError):
            client.ready()
        list(pool.map(lambda _: client.ready(), range(2)))
    assert there.connections == 4


def test_an_upload_that_is_over_never_cuts_the_connection_of_another(peer) -> None:
    """A connection that was given back is the next request's, also while the thread that gave it back still lingers."""
    taken, go_on = threading.Event(), threading.Event()

    def behave(connected: socket.socket) -> None:
        for number in range(2):
            read_head(connected)
            if number:
                taken.set()
                go_on.wait(10)
            reply(connected, 200, b'{"status": "ok"}')

    there = peer(behave)
    client, over = Client(there.url), Switch()
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            outcome.append(client.ready())
        except NetworkError as error:
            outcome.append(error)

    lender = threading.Event(), threading.Event()

    def lend() -> None:
        with client._watchdog.watch(over):
            client._answer(_prepared("GET", there.url + "/readyz", {"Chunky-Request-Id": "1"}, None))
            lender[0].set()
            lender[1].wait(10)

    lending, using = threading.Thread(target=lend), threading.Thread(target=run)
    lending.start()
    assert lender[0].wait(10)
    using.start()
    assert taken.wait(10)
    over.pull()
    go_on.set()
    using.join(10)
    lender[1].set()
    lending.join(10)
    client.close()
    assert outcome == [None]
    assert there.connections == 1


@pytest.mark.parametrize("trickle", [False, True], ids=["silence", "trickle"])
def test_a_connection_on_which_nothing_moves_is_given_up(
    peer, source: Source, monkeypatch: pytest.MonkeyPatch, trickle: bool
) -> None:
    """A peer that takes no byte, and one that answers by single bytes, are cut off by the watchdog."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 0.1)
    ended = threading.Event()

    def stall(connected: socket.socket) -> None:
        if not trickle:
            ended.wait(30)
            return
        head = read_head(connected)
        assert head
        for byte in b"HTTP/1.1 200 " + b"O" * 1000:
            connected.sendall(bytes([byte]))
            if ended.wait(0.05):
                return

    client = Client(peer(stall).url)
    with pytest.raises(NetworkError, match="nothing moved"):
        if trickle:
            client.ready()
        else:
            send(client, source)
    ended.set()
    client.close()


def test_waiting_for_the_bandwidth_limit_is_not_a_stall(peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow limit of our own does not make the watchdog cut the connection."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 0.05)
    path = tmp_path / "small"
    path.write_bytes(b"x" * 1024)
    source = Source(str(path))

    def store(connected: socket.socket) -> None:
        head = read_head(connected)
        rest = 1024 - len(head.partition(b"\r\n\r\n")[2])
        while rest:
            rest -= len(connected.recv(rest))
        reply(connected, 200, b'{"status": "complete"}')

    client = Client(peer(store).url)
    limiter = Limiter(600)
    limiter.take(512, lambda: None)
    assert send(client, source, limiter=limiter) == "complete"
    client.close()
    source.close()


def test_a_switch_ends_what_is_under_way(peer, source: Source) -> None:
    """Pulled in the middle of a body or of a silent wait, the request ends at once with Interrupted."""
    arrived = threading.Event()

    def hang(connected: socket.socket) -> None:
        read_head(connected)
        arrived.set()
        threading.Event().wait(30)

    client, switch = Client(peer(hang).url), Switch()
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            send(client, source, switch)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert arrived.wait(10)
    switch.pull()
    thread.join(5)
    assert [type(error) for error in outcome] == [Interrupted]
    with pytest.raises(Interrupted):
        send(client, source, switch)
    client.close()


def test_a_file_that_shrinks_under_the_body_is_a_change(peer, source: Source) -> None:
    """What is missing at the source is never taken for the network's fault."""

    def drain(connected: socket.socket) -> None:
        while connected.recv(1 << 16):
            pass

    client = Client(peer(drain).url)
    os.truncate(os.fsdecode(source.path), 1000)
    with pytest.raises(SourceChanged):
        send(client, source)
    client.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"\x16\x03\x01 not http",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: https://portal.example/login\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_garbage_is_translated_and_never_holds_the_token(peer, raw: bytes) -> None:
    """Whatever comes back, the error is one of ours, and no part of its chain prints the token."""

    def answer(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(raw)

    client = Client(peer(answer).url, token=TOKEN)
    with pytest.raises((NetworkError, NotChunky)) as caught:
        client.status("s", "0" * 64, 5)
    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in repr(error) + str(error)
        error = error.__cause__
    client.close()


def test_an_endless_answer_is_bounded(peer) -> None:
    """An answer without an end is a network error, not a full memory."""

    def flood(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connected.sendall(b"x" * 65536)

    client = Client(peer(flood).url)
    with pytest.raises(NetworkError, match="larger"):
        client.limits()
    client.close()


def test_nobody_there_is_a_network_error_in_plain_words() -> None:
    """A refused connection says so, and names the server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}")
    with pytest.raises(NetworkError, match=f"{port}.*refused"):
        client.ready()
    client.close()


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("ftp://host", None),
        ("host", None),
        ("http://", None),
        ("http://user:pass@host", None),
        ("http://host/?a=b", None),
        ("http://host:99999999", None),
        ("http://a b", None),
        ("http://exa..mple", None),
        ("http://" + "a" * 64, None),
        ("http://🎥.example", None),
        ("http://files.example.org", TOKEN),
        ("https://files.example.org", "with space"),
        ("https://files.example.org", "line\nbreak"),
        ("https://files.example.org", ""),
    ],
)
def test_urls_and_tokens_that_cannot_be_used(url: str, token: str | None) -> None:
    """A token never goes over plain HTTP to another machine; nothing of it, or of a password, is in the error."""
    with pytest.raises(ConfigError) as caught:
        Client(url, token=token)
    assert "pass@" not in str(caught.value)
    assert not token or token not in str(caught.value)


def test_where_a_token_may_go() -> None:
    """TLS, loopback, and where plain HTTP was allowed."""
    for url, allow in (
        ("https://files.example.org", False),
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("http://localhost:1", False),
        ("http://files.example.org", True),
    ):
        Client(url, token=TOKEN, allow_plain=allow).close()


def test_the_environments_proxies_and_netrc_do_not_count(peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only a configured proxy is used, and no password file is read."""
    heads = []

    def answer(connected: socket.socket) -> None:
        heads.append(read_head(connected))
        reply(connected, 200, b"{}")

    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = Client(peer(answer).url)
    client.ready()
    assert b"authorization" not in heads[0].lower()
    client.close()
    proxied = Client("http://files.example.org", proxy=peer(answer).url)
    proxied.ready()
    assert heads[1].startswith(b"GET http://files.example.org/readyz ")
    proxied.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, made on the spot."""
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {made}".split(),
        check=True,
        capture_output=True,
    )
    return made, key


def test_tls_with_a_ca_file_and_without(peer, source: Source, certificate: tuple[Path, Path]) -> None:
    """A certificate is trusted only by the ca_file; chunks and the switch work under TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    arrived = threading.Event()

    def behave(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connected:
            while True:
                head = read_head(connected)
                if b"Content-Range: bytes 0-9/" in head:
                    arrived.set()
                    threading.Event().wait(20)
                rest = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        rest = int(line.split(b":")[1])
                rest -= len(head.partition(b"\r\n\r\n")[2])
                while rest > 0:
                    rest -= len(connected.recv(1 << 16))
                reply(connected, 200, b'{"status": "complete"}')

    url = peer(behave).url.replace("http://", "https://")
    stranger = Client(url)
    with pytest.raises(NetworkError, match="not trusted"):
        stranger.ready()
    stranger.close()
    client = Client(url, ca_file=str(certificate[0]), token=TOKEN)
    client.ready()
    assert send(client, source) == "complete"
    switch = Switch()
    outcome: list[BaseException] = []

    def hang() -> None:
        try:
            body = Body(source, (0, 10), None, lambda: None, lambda count: None)
            client.chunk("s", "0" * 64, (0, 10), 10, b"\0\0\0\0", body, switch)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    assert arrived.wait(10)
    switch.pull()
    thread.join(5)
    assert [type(error) for error in outcome] == [Interrupted]
    client.close()


def test_a_host_that_is_not_ascii_is_asked_for_as_idna() -> None:
    """`bücher` is a name people have; what goes to the resolver and into the Host header is its ASCII form."""
    with contextlib.closing(Client("https://bücher.example/å/")) as client:
        assert client.url == "https://xn--bcher-kva.example/%C3%A5"
