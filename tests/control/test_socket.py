"""Requests over a real socket: answers, refusals, hostile peers, start and stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.control import server as server_module
from chunkyd.control.base import CONTROL_VERSION, VERSION_HEADER, Notice, Refusal, ReloadOutcome, Selection
from chunkyd.control.client import ControlClient, DaemonDown
from chunkyd.control.server import ControlServer
from chunkyd.errors import (
    AlreadyRunning,
    ConfigError,
    EnvironmentFailure,
    StateError,
    Unreachable,
    UsageError,
    UserError,
)
from tests.control.fake import FakeBackend


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def raw(path: str, sent: bytes, seconds: float = 20.0) -> bytes:
    """All that is answered to these bytes."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(seconds)
        peer.connect(path)
        peer.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := peer.recv(65536):
                answer += part
        return answer


def ask(path: str, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, object]]:
    """Status and JSON of an answer to a request as curl would send it."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(path)
    try:
        with contextlib.suppress(BrokenPipeError):  # refused before its body was read
            connection.request(method, target, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_every_request_reaches_the_daemon_and_its_answer_comes_back(client: ControlClient, backend: FakeBackend):
    """Each method of the client calls the backend's method of the same name with what was given."""
    assert client.status() == backend.status()
    assert [each.id for each in client.jobs().jobs] == [1, 2]
    assert [each.id for each in client.jobs(("done", "failed"), "footage", 5, 0).jobs] == [2, 3]
    assert client.jobs(limit=1).next == 1
    assert client.history(7, 9, "footage").jobs == (backend.table[3],)
    assert client.job(2) == backend.table[2]
    assert client.pause(Selection()).changed == 3
    assert client.resume(Selection(folder="footage")).changed == 3
    assert client.retry((1, 2)).changed == 2
    assert client.cancel((2,)).changed == 1
    assert not client.rescan("footage").finished
    assert client.reload().reloaded
    assert backend.calls == [
        ("jobs", ((), None, 1000, None)),
        ("jobs", (("done", "failed"), "footage", 5, 0)),
        ("jobs", ((), None, 1, None)),
        ("history", (7, 9, "footage")),
        ("pause", Selection()),
        ("resume", Selection(folder="footage")),
        ("retry", (1, 2)),
        ("cancel", (2,)),
        ("rescan", ("footage", False, 600.0)),
        ("reload", None),
    ]


def test_json_is_camel_case_and_names_that_are_not_utf8_carry_their_bytes(path: str, server: ControlServer):
    """The wire shape of a job is the documented one."""
    status, document = ask(path, "GET", "/v1/jobs?state=failed")
    assert status == 200
    assert document == {
        "jobs": [
            {
                "id": 2,
                "folder": "footage",
                "path": "bad\\xff\n.bin",
                "pathBytes": "YmFk/wouYmlu",
                "state": "failed",
                "reason": None,
                "bytesDone": 0,
                "bytesTotal": 1000,
                "attempts": 0,
                "nextAttempt": None,
                "error": "no room",
            }
        ],
        "next": None,
    }


def test_refusals_come_back_per_job(client: ControlClient):
    """A job that is not there is named, the others are done."""
    outcome = client.pause(Selection(jobs=(1, 99)))
    assert outcome.changed == 1
    assert outcome.refused == (Refusal(id=99, what="there is no such job"),)


def test_the_daemons_errors_are_the_clients(client: ControlClient, caplog: pytest.LogCaptureFixture):
    """What the user did, what the machine did, and a mistake of ours arrive as what they are, with their mend."""
    with pytest.raises(UserError, match=r"no folder 'x'.*chunkyctl status"):
        client.jobs(folder="x")
    with pytest.raises(UserError, match="there is no job 99"):
        client.job(99)
    with pytest.raises(EnvironmentFailure, match="Look at the disk"):
        client.job(507)
    with pytest.raises(EnvironmentFailure, match="made a mistake") as caught:
        client.job(666)
    assert "KeyError" not in str(caught.value)
    assert "KeyError" in caplog.text


def test_a_bad_configuration_is_an_outcome_of_reload(client: ControlClient, backend: FakeBackend):
    """Reload answers with what is wrong, or with what waits for a restart."""
    backend.reloaded = ReloadOutcome(reloaded=False, what="c.yaml:3: no", mend="Mend it")
    assert client.reload() == backend.reloaded
    backend.reloaded = ReloadOutcome(reloaded=True, need_restart=("state_dir",))
    assert client.reload() == backend.reloaded


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "said"),
    [
        ("GET", "/", b"", 404, "nothing at /"),
        ("GET", "/v1/jobs/x", b"", 400, "a job's number"),
        ("GET", "/v1/jobs/-1", b"", 400, "a job's number"),
        ("GET", "/v1/jobs/99999999999999999999", b"", 400, "a job's number"),
        ("POST", "/v1/jobs/1", b"", 405, "takes GET"),
        ("POST", "/v1/status", b"", 405, "takes GET"),
        ("GET", "/v1/pause", b"", 405, "takes POST"),
        ("POST", "/v1/events", b"", 405, "takes GET"),
        ("GET", "/v1/jobs?limit=0", b"", 400, "limit"),
        ("GET", "/v1/jobs?limit=10001", b"", 400, "limit"),
        ("GET", "/v1/jobs?limit=%C2%B2", b"", 400, "limit"),
        ("GET", "/v1/jobs?sate=done", b"", 400, "'sate'"),
        ("GET", "/v1/jobs?folder=%ff", b"", 400, "query"),
        ("GET", "/v1/status?x=1", b"", 400, "'x'"),
        ("POST", "/v1/pause", b'{"job":[1]}', 400, "'job'"),
        ("POST", "/v1/pause", b'{"jobs":["1"]}', 400, "jobs"),
        ("POST", "/v1/pause", b'{"jobs":[1],"folder":"a"}', 400, "both"),
        ("POST", "/v1/pause", b"\xff", 400, "JSON"),
        ("POST", "/v1/pause", b"[" * 60000, 400, "body"),
        ("POST", "/v1/pause", b" " * 65537, 413, "65536"),
        ("POST", "/v1/cancel", b"{}", 400, "no job"),
        ("POST", "/v1/retry", b'{"folder":"a"}', 400, "not a folder"),
        ("POST", "/v1/rescan", b'{"timeout":-1}', 400, "timeout"),
        ("POST", "/v1/reload", b'{"now":true}', 400, "'now'"),
    ],
)
def test_what_is_not_understood_is_refused_clearly(
    path: str,
    server: ControlServer,
    backend: FakeBackend,
    method: str,
    target: str,
    body: bytes,
    status: int,
    said: str,
):
    """A problem names what is wrong, and nothing is done."""
    code, document = ask(path, method, target, body)
    assert (code, document["status"]) == (status, status)
    assert said in str(document["what"])
    assert set(document) == {"title", "status", "what", "mend"}
    assert backend.calls == []


def test_another_version_is_refused_before_anything_is_done(path: str, server: ControlServer, backend: FakeBackend):
    """A client of another release is told so in words."""
    code, document = ask(path, "POST", "/v1/pause", b'{"new":1}', **{VERSION_HEADER.replace("-", "_"): "2"})
    assert code == 400
    assert "version 1" in str(document["what"])
    assert "same release" in str(document["mend"])
    assert backend.calls == []


@contextlib.contextmanager
def answering(path: str, *answers: bytes) -> Iterator[None]:
    """Somebody at the socket who answers each connection with the next of these."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(10)

        def serve() -> None:
            for answer in answers:
                peer, _ = listening.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)
    os.unlink(path)


OURS = b"HTTP/1.1 200 OK\r\n%s: 1\r\n" % VERSION_HEADER.encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 X\r\n\r\n",
        b"??\r\n",
        b"",
        b"HTTP/1.1 200 OK" + 10_000 * b" " + b"\r\n\r\n{}",
        OURS + b"Content-Length: -2\r\n\r\n{}",
        OURS + b"Content-Length: 2x\r\n\r\n{}",
        OURS + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        OURS + b"no header\r\n\r\n{}",
        OURS + 200 * b"X: y\r\n" + b"\r\n{}",
        OURS + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_client_knows_what_is_no_chunkyd(path: str, answer: bytes):
    """Whatever answers at the socket, the client ends with an error that says so."""
    with answering(path, answer), pytest.raises(EnvironmentFailure):
        ControlClient(path).history()


def test_an_answer_that_is_cut_off_is_none(path: str):
    """Wherever the daemon breaks off, its answer is not taken for a shorter one."""
    body = b'{"changed":1}'
    whole = OURS + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with answering(path, *(whole[:end] for end in range(len(whole)))):
        for _ in whole:
            with pytest.raises(Unreachable):
                ControlClient(path).pause(Selection())
    with answering(path, whole + b"and more"):
        assert ControlClient(path).pause(Selection()).changed == 1
    with answering(path, OURS + b"\r\n" + body):  # one without a length ends with the connection
        assert ControlClient(path).pause(Selection()).changed == 1


def test_a_client_of_a_newer_daemon_is_told_to_update(path: str):
    """The daemon's version comes back in every answer, and another one is an error of its own."""
    answer = b"HTTP/1.1 200 OK\r\n%s: 2\r\nContent-Length: 2\r\n\r\n{}" % VERSION_HEADER.encode()
    with answering(path, answer), pytest.raises(Unreachable, match=r"version 2 .*version 1.*same release"):
        ControlClient(path).status()


def test_nobody_there_is_said_with_how_to_start(path: str, server: ControlServer):
    """A missing socket, a stale one and a stopped daemon are all exit code 69, and say what to do."""
    server.stop()
    with pytest.raises(DaemonDown, match=r"not running.*Start it") as missing:
        ControlClient(path).status()
    assert missing.value.exit_code == 69
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(DaemonDown, match="not running"):
        ControlClient(path).status()


def test_only_the_owner_may_connect_whatever_the_umask(path: str, backend: FakeBackend):
    """The file is 0600 with an open umask, and usable with a closed one."""
    for umask in (0, 0o177):
        before = os.umask(umask)
        try:
            server = ControlServer(path, None, backend)
            server.start()
        finally:
            os.umask(before)
        try:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert ControlClient(path).status().pid == 4711
        finally:
            server.stop()
        assert not os.path.exists(path)


def test_a_group_gets_the_file_and_no_more(short_folder: Path, backend: FakeBackend):
    """With a group: 0660, its group, in a folder others may pass."""
    import grp

    path = str(short_folder / "new" / "deeper" / "control.sock")
    group = grp.getgrgid(os.getgid())
    server = ControlServer(path, group.gr_name, backend)
    before = os.umask(0o077)
    try:
        server.start()
    finally:
        os.umask(before)
    try:
        status = os.stat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group.gr_gid)
        for folder in (short_folder / "new", short_folder / "new" / "deeper"):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o755
    finally:
        server.stop()


def test_an_unknown_group_is_a_bad_configuration(path: str, backend: FakeBackend):
    """Nothing is left behind, and the error says how to make the group."""
    with pytest.raises(ConfigError, match="groupadd"):
        ControlServer(path, "no-such-group", backend).start()
    assert not os.path.exists(path)


def test_a_path_too_long_is_a_bad_configuration(short_folder: Path, backend: FakeBackend):
    """Both ends say how long it is and how long it may be; the longest that may be works."""
    long = str(short_folder / ("x" * (108 - len(str(short_folder)) - 1)))
    assert len(long) == 108
    with pytest.raises(ConfigError, match=r"108 bytes.*107"):
        ControlServer(long, None, backend).start()
    with pytest.raises(ConfigError, match="107"):
        ControlClient(long)
    server = ControlServer(long[:-1], None, backend)
    server.start()
    try:
        assert ControlClient(long[:-1]).status().pid == 4711
    finally:
        server.stop()


def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(path: str, backend: FakeBackend):
    """A second daemon is refused and the first goes on; after a crash the next one takes the path."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    first = ControlServer(path, None, backend)
    first.start()
    try:
        with pytest.raises(AlreadyRunning, match="another chunkyd"):
            ControlServer(path, None, FakeBackend()).start()
        assert ControlClient(path).status().jobs
    finally:
        first.stop()


def test_a_file_that_is_no_socket_is_left_alone(path: str, backend: FakeBackend):
    """A regular file or a link at the path is never removed."""
    Path(path).write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"):
        ControlServer(path, None, backend).start()
    assert Path(path).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said(short_folder: Path, backend: FakeBackend):
    """A file in the way of the socket's folder is an error in words."""
    (short_folder / "f").write_text("")
    with pytest.raises(StateError, match=r"control\.socket"):
        ControlServer(str(short_folder / "f" / "control.sock"), None, backend).start()


def test_stop_leaves_the_socket_of_a_successor(path: str, server: ControlServer, backend: FakeBackend):
    """A daemon that stops late does not take away the file that another has put there."""
    os.unlink(path)
    second = ControlServer(path, None, backend)
    second.start()
    try:
        server.stop()
        assert ControlClient(path).status().pid == 4711
    finally:
        second.stop()


def test_events_come_as_they_happen(client: ControlClient, backend: FakeBackend):
    """A stream begins with where it stands and goes on with every event, in order."""
    stream = client.events()
    first = next(stream)
    assert first.kind == "stream"
    backend.log.publish("notice", text="one")
    backend.log.publish("notice", text="two")
    one, two = next(stream), next(stream)
    assert (one.id, one.text, two.id, two.text) == (first.id + 1, "one", first.id + 2, "two")
    assert one.time == "2027-01-15T08:00:00Z"
    again = client.events(first.id)
    assert [next(again).text for _ in range(3)] == [None, "one", "two"]
    stream.close()
    again.close()


def test_a_gap_is_told(client: ControlClient, backend: FakeBackend):
    """Who comes back with an ID that is not known here hears of the gap before what is kept."""
    backend.log.publish("notice", text="kept")
    stream = client.events(17)
    kinds = [next(stream) for _ in range(3)]
    assert [each.kind for each in kinds] == ["stream", "gap", "notice"]
    assert kinds[1].id == kinds[2].id - 1
    stream.close()


def test_listeners_cannot_use_up_all_threads(client: ControlClient, backend: FakeBackend):
    """Streams are bounded, what is left answers, and a stream that ends makes room."""
    streams = [client.events() for _ in range(server_module._STREAMS)]
    for stream in streams:
        next(stream)
    with pytest.raises(EnvironmentFailure, match="as many event streams"):
        next(client.events())
    assert client.status().pid == 4711
    streams.pop().close()

    def room() -> bool:
        backend.log.publish("tick")  # writing is how the daemon learns that a peer is gone
        with contextlib.suppress(EnvironmentFailure):
            late = client.events()
            next(late)
            streams.append(late)
            return True
        return False

    until(room)
    for stream in streams:
        stream.close()


def test_stop_ends_streams_and_waiting_requests(path: str, backend: FakeBackend):
    """Listeners and a request that still waits hold up neither stop nor the process."""
    server = ControlServer(path, None, backend)
    server.start()
    client = ControlClient(path)
    stream = client.events()
    next(stream)
    failed: list[Exception] = []

    def wait() -> None:
        try:
            client.rescan(wait=True)
        except Unreachable as error:
            failed.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert backend.rescanning.wait(10)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 9
    with contextlib.suppress(Unreachable):
        assert list(stream) == []
    waiting.join(10)
    assert len(failed) == 1
    backend.release.set()
    server.stop()


def test_a_rescan_is_waited_for(client: ControlClient, backend: FakeBackend):
    """The answer comes when the scan is done, or when the time is over."""
    assert not client.rescan("footage", wait=True, timeout=0.05).finished
    backend.release.set()
    assert client.rescan("footage", wait=True, timeout=30).finished


def test_peers_that_stall_are_cut_off(path: str, server: ControlServer, monkeypatch: pytest.MonkeyPatch):
    """More silent, dripping and never-reading peers than there are threads: an answer still comes."""
    monkeypatch.setattr(server_module, "_REQUEST_SECONDS", 1.0)
    with contextlib.ExitStack() as peers:
        for number in range(server_module._THREADS + 4):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(path)
            if number % 2:
                peer.sendall(b"POST /v1/pause HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        status, document = ask(path, "GET", "/v1/status")
        assert (status, document["pid"]) == (200, 4711)


def test_a_dripping_peer_is_cut_off(path: str, server: ControlServer, monkeypatch: pytest.MonkeyPatch):
    """A byte now and then does not buy more time: the request as a whole has its deadline."""
    monkeypatch.setattr(server_module, "_REQUEST_SECONDS", 0.5)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(b"GET /v1/status HTTP/1.1\r\n")

        def dropped() -> bool:
            try:
                peer.sendall(b"X: y\r\n")
            except OSError:
                return True
            return False

        until(dropped)


def test_a_body_that_never_comes_is_refused(path: str, server: ControlServer, backend: FakeBackend):
    """Half a body and then silence, or the end of sending: a refusal, and nothing is done."""
    head = b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    assert raw(path, head).startswith(b"HTTP/1.1 408")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(path)
        peer.sendall(head)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(4096).startswith(b"HTTP/1.1 400")
    assert backend.calls == []


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
        b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n",
        b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_broken_requests_do_nothing_and_harm_nobody(
    path: str, server: ControlServer, backend: FakeBackend, client: ControlClient, sent: bytes
):
    """Whatever bytes come, the backend is not called and the next request is answered."""
    with contextlib.suppress(OSError):
        answer = raw(path, sent)
        assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert backend.calls == []
    assert client.status().pid == 4711


def test_what_follows_a_refused_body_is_not_a_request(path: str, server: ControlServer, backend: FakeBackend):
    """A second request hidden behind the first is never read."""
    hidden = b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    answer = raw(path, b"POST /v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + hidden)
    assert answer.startswith(b"HTTP/1.1 413")
    assert backend.calls == []


def test_an_answer_names_its_version(path: str, server: ControlServer):
    """The version stands in the head of answers and refusals."""
    for target in (b"/v1/status", b"/nothing"):
        head = raw(path, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").split(b"\r\n\r\n")[0]
        assert f"{VERSION_HEADER}: {CONTROL_VERSION}".encode() in head.split(b"\r\n")


def test_problems_of_the_status_are_structured(client: ControlClient, backend: FakeBackend):
    """Each says what is wrong and what to do."""
    backend.notices = (Notice(what="too few watches", mend="raise fs.inotify.max_user_watches"),)
    assert client.status().problems == backend.notices


_OTHER_USER = """
import os, sys
from chunkyd.control.client import ControlClient
from chunkyd.errors import ChunkyError
gid, uid = int(sys.argv[2]), int(sys.argv[3])
client = ControlClient(sys.argv[1])
os.setgroups([]); os.setgid(gid); os.setuid(uid)
try:
    print(client.status().pid)
except ChunkyError as error:
    print(type(error).__name__, error)
"""


def test_a_refusal_reaches_a_client_that_is_still_sending(path: str, backend: FakeBackend):
    """What was refused by its head alone is told, not "broken pipe", however long the body is."""
    server = ControlServer(path, None, backend)
    server.start()
    try:
        for _ in range(30):
            with pytest.raises(UsageError, match="65536 bytes"):
                ControlClient(path).pause(Selection(jobs=tuple(range(100_000, 200_000))))
        assert backend.calls == []
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_peers_are_known_by_the_kernel(path: str, server: ControlServer):
    """Another user who gets as far as connecting is refused, with its group too; without access to the file, before."""
    import pwd

    nobody = pwd.getpwnam("nobody")

    def as_nobody() -> str:
        command = [sys.executable, "-c", _OTHER_USER, path, str(nobody.pw_gid), str(nobody.pw_uid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    os.chmod(os.path.dirname(path), 0o755)
    assert as_nobody().startswith("Unreachable")
    os.chmod(path, 0o666)
    assert f"the user with the number {nobody.pw_uid} may not control" in as_nobody()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_members_of_the_group_may(path: str, backend: FakeBackend):
    """A user whose group it is reaches the daemon."""
    import grp
    import pwd

    nobody = pwd.getpwnam("nobody")
    server = ControlServer(path, grp.getgrgid(nobody.pw_gid).gr_name, backend)
    server.start()
    try:
        os.chmod(os.path.dirname(path), 0o755)
        command = [sys.executable, "-c", _OTHER_USER, path, str(nobody.pw_gid), str(nobody.pw_uid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "4711"
    finally:
        server.stop()
