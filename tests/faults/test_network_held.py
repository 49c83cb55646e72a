"""Trouble that lasts: the daemon says what it is and what helps, holds the queue, and goes on by itself afterwards."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from chunkyd.protocol.batch import MAX_CONTENT_BYTES
from tests.e2e.programs import BIN, Daemon, Server, running, wait_until
from tests.faults.certificates import Authority
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Answer, Break, Fault

NUMBERS = itertools.count()
REDIRECT = "https://portal.example/login"


class Field:
    """A daemon whose way to its server is ours to spoil."""

    def __init__(self, folder: Path, proxy: FaultProxy, server: Server, **remote: object) -> None:
        self.proxy = proxy
        self.server = server
        self.box = folder / "outbox"
        self.box.mkdir()
        uploads = {"retry": {"base": "20ms", "max": "200ms"}, "chunk_size": "256KiB", "parallel_chunks": 2}
        self.daemon = Daemon(folder, proxy.url, [{"path": str(self.box)}], uploads=uploads, server=dict(remote))

    @property
    def control(self) -> ControlClient:
        """Of the daemon."""
        return ControlClient(str(self.daemon.socket))

    def put(self, size: int = 300_000) -> Path:
        """A new file in the box; where it will be published."""
        name = f"file-{next(NUMBERS)}"
        (self.box / name).write_bytes(os.urandom(size))
        return self.server.files() / "outbox" / name

    def said(self) -> str:
        """Why the queue is held, and what status and show say of it; empty where it is not."""
        status = self.control.status()
        if status.state != "offline":
            return ""
        notices = [f"{problem.what} {problem.mend}" for problem in status.problems]
        jobs = self.control.jobs().jobs
        return (
            " ".join(notices) if jobs and {(job.state, job.reason) for job in jobs} == {("paused", "network")} else ""
        )

    def arrives(self, published: Path) -> None:
        """By itself, whole."""
        wait_until("it arrives", published.exists, 30, self.daemon.text)
        wait_until("no job is left", lambda: not self.control.jobs().jobs, 30, self.daemon.text)
        assert published.read_bytes() == (self.box / published.name).read_bytes()
        assert self.control.status().state == "ok"

    def trouble(self, begin: Callable[[], object], end: Callable[[], object], *words: str) -> None:
        """A file meets trouble that is said with these words; when the trouble ends, it arrives."""
        begin()
        self.proxy.sever()
        published = self.put()
        try:
            said = wait_until("the queue is held, and it is said why", self.said, 40, self.daemon.text)
        finally:
            end()
        assert not published.exists()
        for each in words:
            assert each in said, said
        self.arrives(published)
        assert "Traceback" not in self.daemon.text() + self.server.text()


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Plain HTTP, through the proxy."""
    folder = tmp_path_factory.mktemp("held")
    server = Server(folder)
    with FaultProxy(server.port) as proxy:
        field = Field(folder, proxy, server)
        with running(server, field.daemon):
            yield field


NOT_CHUNKY = "but not as a chunky server does"
PORTAL = "A proxy or a login page may stand in between"
LASTING: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "portal": (Answer(200, linger=0.2), (PORTAL, "has status 200")),
    "502": (Answer(502, linger=0.2), ("has status 502", PORTAL)),
    "503": (Answer(503, headers=(("Retry-After", "0"),), linger=0.2), ("has status 503",)),
    "429": (Answer(429, headers=(("Retry-After", "0"),), linger=0.2), ("has status 429",)),
    "reset": (Break("work", "reset"), ("no answer from http://127.0.0.1", "tried again by itself")),
    "closed": (Break("answer", "close"), ("the connection was closed in the middle of an answer",)),
    **{str(status): (Answer(status, linger=0.2), (f"answers {status}", NOT_CHUNKY)) for status in (401, 403, 404, 405)},
    **{
        str(status): (
            Answer(status, headers=(("Location", REDIRECT),), linger=0.2),
            (f"redirects to {REDIRECT}; redirects are never followed", "Use the server's final URL"),
        )
        for status in (301, 302, 303, 307, 308)
    },
}


@pytest.mark.parametrize("name", LASTING)
def test_trouble_is_named_and_passes(field: Field, name: str) -> None:
    """Every request meets it: offline, all jobs paused for the network, in words; then on by itself."""
    fault, words = LASTING[name]

    def begin() -> None:
        field.proxy.plan = lambda seen: fault

    def end() -> None:
        field.proxy.plan = lambda seen: None

    field.trouble(begin, end, *words)


def test_a_wrong_door(field: Field) -> None:
    """A port that speaks TLS where http was configured: no HTTP comes back, and the mend says where to look."""

    def begin() -> None:
        field.proxy.welcome = lambda number: "tls"

    def end() -> None:
        field.proxy.welcome = lambda number: None

    field.trouble(begin, end, "what it answers is not HTTP", "http or https")


def test_files_that_a_filter_refuses_hold_up_no_other(field: Field) -> None:
    """Something on the way kills the connection for some files, for ever: all others arrive all the same."""
    poisoned: set[str] = set()

    def plan(seen: Seen) -> Fault | None:
        if len(poisoned) < 2 and seen.file_hash:
            poisoned.add(seen.file_hash)
        return Break("work", "reset") if seen.file_hash in poisoned else None

    field.proxy.plan = plan
    alone = MAX_CONTENT_BYTES + 1  # smaller ones may go together, and the plan knows no hash of such a request
    bad = [field.put(alone) for _ in range(2)]
    wait_until("the bad ones were tried", lambda: len(poisoned) == 2, 30, field.daemon.text)
    others = [field.put(alone) for _ in range(2)]
    try:
        wait_until("the others arrive", lambda: all(each.exists() for each in others), 40, field.daemon.text)
        assert not any(each.exists() for each in bad)
    finally:
        field.proxy.plan = lambda seen: None
    for each in bad:
        field.arrives(each)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the client trusts."""
    return Authority(tmp_path_factory.mktemp("tls") / "trusted")


def context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A server's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificate)
    return made


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Field]:
    """HTTPS, ended by the proxy."""
    folder = tmp_path_factory.mktemp("secure")
    server = Server(folder)
    with FaultProxy(server.port, tls=context(authority.certificate("good"))) as proxy:
        field = Field(folder, proxy, server, ca_file=str(authority.ca_file))
        with running(server, field.daemon):
            yield field


BAD_CERTIFICATES = {
    "expired": ({"first_day": -9, "last_day": -2}, "certificate has expired"),
    "not-yet": ({"first_day": 2, "last_day": 9}, "certificate is not yet valid"),
    "wrong-host": ({"names": "DNS:files.example"}, "IP address mismatch"),
}


@pytest.mark.parametrize("name", [*BAD_CERTIFICATES, "self-signed"])
def test_a_certificate_that_is_no_good(secure: Field, authority: Authority, tmp_path: Path, name: str) -> None:
    """Nothing is sent; the reason is the certificate's own, and clock, URL and ca_file are named."""
    if name == "self-signed":
        bad, reason = Authority(tmp_path / "stranger").certificate(name), "unable to get local issuer certificate"
    else:
        options, reason = BAD_CERTIFICATES[name]
        bad = authority.certificate(name, **options)  # type: ignore[arg-type]
    good = secure.proxy.tls

    def begin() -> None:
        secure.proxy.tls = context(bad)

    def end() -> None:
        secure.proxy.tls = good

    secure.trouble(begin, end, "its certificate is not trusted", reason, "Check the URL, this machine's clock, and ca")


@pytest.mark.parametrize("greeting", ["plain", "close", "reset"])
def test_no_tls_on_the_tls_port(secure: Field, greeting: str) -> None:
    """Plain HTTP, a goodbye or a reset instead of a handshake: the same, and plain HTTP is named."""

    def begin() -> None:
        secure.proxy.welcome = lambda number: greeting

    def end() -> None:
        secure.proxy.welcome = lambda number: None

    words = ("TLS failed (WRONG_VERSION_NUMBER)", "http or https") if greeting == "plain" else ("no answer from",)
    secure.trouble(begin, end, *words)


@pytest.mark.long
def test_chunky_says_the_same(field: Field, tmp_path: Path) -> None:
    """`chunky upload` ends with 69 and the reason in one sentence; the same command again finishes."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code, said = chunky(tmp_path, path, nowhere)
    assert code == 69, said
    assert f"no answer from {nowhere}: Connection refused" in said
    assert chunky(tmp_path, path, field.proxy.url)[0] == 0
    assert (field.server.files() / "file").read_bytes() == path.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(("kind", "expected"), [("portal", 69), ("302", 1)])
def test_chunky_names_what_stands_in_between(field: Field, tmp_path: Path, kind: str, expected: int) -> None:
    """The same where a login page answers, or sends elsewhere: nothing is sent there, and it is said."""
    path = tmp_path / f"behind-{kind}"
    path.write_bytes(os.urandom(300_000))
    fault, words = LASTING[kind]
    field.proxy.plan = lambda seen: fault
    try:
        code, said = chunky(tmp_path, path, field.proxy.url)
    finally:
        field.proxy.plan = lambda seen: None
    assert code == expected, said
    for each in words:
        assert each in said, said
    assert chunky(tmp_path, path, field.proxy.url)[0] == 0
    assert (field.server.files() / path.name).read_bytes() == path.read_bytes()


def chunky(folder: Path, path: Path, url: str) -> tuple[int, str]:
    """Its exit code, and what it said."""
    import subprocess

    done = subprocess.run(
        [BIN / "chunky", "upload", "--state", folder / "state.sqlite3", path, "--to", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "CHUNKYD_CONFIG": "", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr
