"""Wall clocks that are wrong, or are set while the programs run: each program has a clock of its own (`wall.c`).

The monotonic clock is left alone, as it is when somebody sets a machine's clock, or suspends the machine. File times
stay the kernel's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from chunkyd.errors import Problem
from chunkyd.protocol.messages import Initiate
from chunkyd.upload import Client
from tests.e2e.programs import Daemon, Program, Server, running, sha256, wait_until
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Answer, Fault

MIB = 1 << 20
DAY = 86400
YEARS = 400 * DAY
RETRY = {"base": "100ms", "max": "1s"}


class Clock:
    """The wall clock of one program: real time, and so many seconds more; and for how long it was suspended."""

    def __init__(self, base: Path, library: Path, name: str) -> None:
        self._file = base / f"{name}.clock"
        self.set(0)
        self.env = {"LD_PRELOAD": str(library), "WALL_OFFSET": str(self._file), "TZ": "UTC"}

    def set(self, offset: int, slept: int = 0) -> None:
        """Step it, or let it go on as in a machine that has slept."""
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:  # the programs have it mapped
            file.write(struct.pack("=qq", offset * 1_000_000_000, slept * 1_000_000_000))

    def set_1970(self) -> None:
        """A board without a battery."""
        self.set(60 - int(time.time()))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What gives a program a clock of its own."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed: apt-get install gcc libc6-dev")
    made = tmp_path_factory.mktemp("wall") / "wall.so"
    source = Path(__file__).with_name("wall.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(made), str(source)], check=True)
    return made


class Pair:
    """A server and a daemon over one folder, each with its clock."""

    def __init__(self, base: Path, library: Path, **settings: Any) -> None:
        self.outbox = base / "outbox"
        self.outbox.mkdir()
        self.clocks = {name: Clock(base, library, name) for name in ("daemon", "server")}
        self.server = Server(base, env=self.clocks["server"].env)
        self.proxy = FaultProxy(self.server.port)
        uploads = {"chunk_size": "256KiB", "parallel_chunks": 2, "retry": RETRY, **settings.pop("uploads", {})}
        self.daemon = Daemon(
            base,
            self.proxy.url,
            [{"path": str(self.outbox), **settings.pop("folder", {})}],
            uploads=uploads,
            env=self.clocks["daemon"].env,
            **settings,
        )
        self._numbers = itertools.count()

    def put(self, size: int = MIB) -> Path:
        """A file, there at once."""
        file = self.outbox / f"file{next(self._numbers)}"
        making = self.outbox.with_name("making")
        making.write_bytes(os.urandom(size))
        return making.rename(file)

    def published(self, file: Path) -> Path:
        """Where it is to stand."""
        return self.server.files() / "outbox" / file.name

    def arrives(self, file: Path, seconds: float = 30.0) -> None:
        """It does, whole."""
        published = self.published(file)
        wait_until(f"{file.name} arrives", published.exists, seconds, lambda: self.daemon.text() + self.server.text())
        assert sha256(published) == sha256(file)

    def step(self, who: str, offset: int, slept: int = 0) -> None:
        """Set the clock of `daemon`, `server` or `both`, or suspend them."""
        for name, clock in self.clocks.items():
            if who in (name, "both"):
                clock.set(offset, slept)


@pytest.fixture
def pair(tmp_path: Path, library: Path) -> Callable[..., Pair]:
    """Makes one."""
    return lambda **settings: Pair(tmp_path, library, **settings)


@pytest.mark.parametrize(
    ("who", "offset"),
    [
        ("both", DAY),
        *(
            pytest.param(who, offset, marks=pytest.mark.long)
            for who in ("daemon", "server", "both")
            for offset in (DAY, -DAY, YEARS, -YEARS)
            if (who, offset) != ("both", DAY)
        ),
    ],
)
def test_a_step_while_a_file_is_under_way(pair: Callable[..., Pair], who: str, offset: int) -> None:
    """Set in the middle of an upload, and back again: the session lives on, nothing is sent twice, the file arrives."""
    both = pair(uploads={"bandwidth": "2MiB/s"})
    with both.proxy, running(both.server), running(both.daemon):
        file = both.put(4 * MIB)
        wait_until("it is under way", lambda: both.proxy.body_bytes >= MIB // 2, 30, both.daemon.text)
        both.step(who, offset)
        wait_until("it goes on", lambda: both.proxy.body_bytes >= 2 * MIB, 30, both.daemon.text)
        both.step(who, 0)
        both.arrives(file)
        both.daemon.wait_idle()
        assert both.proxy.body_bytes <= 4 * MIB + 2 * 256 * 1024
        assert both.proxy.count("/initiateUploadSession") == 1
        both.arrives(both.put())


@pytest.mark.parametrize("who", [*(pytest.param(who, marks=pytest.mark.long) for who in ("daemon", "server")), "both"])
def test_suspended_in_the_middle_and_when_idle(pair: Callable[..., Pair], who: str) -> None:
    """A day by every clock that goes on in a suspend: the session lives on; idle, no connection is used again."""
    both = pair(uploads={"bandwidth": "2MiB/s"})
    with both.proxy, running(both.server), running(both.daemon):
        file = both.put(4 * MIB)
        wait_until("it is under way", lambda: both.proxy.body_bytes >= MIB // 2, 30, both.daemon.text)
        both.step(who, 0, slept=DAY)
        both.arrives(file)
        both.daemon.wait_idle()
        assert both.proxy.body_bytes <= 4 * MIB + 2 * 256 * 1024
        assert both.proxy.count("/initiateUploadSession") == 1
        asked, before = len(both.proxy.requests), both.proxy.connections
        both.step(who, 0, slept=2 * DAY)
        both.arrives(both.put())
        again = [seen for seen in both.proxy.requests[asked:] if seen.connection <= before]
        assert bool(again) == (who == "server")


@pytest.mark.parametrize("offset", [DAY, -DAY], ids=["+1 day", "-1 day"])
def test_a_step_while_a_job_waits(pair: Callable[..., Pair], offset: int) -> None:
    """A backoff of seconds stays one of seconds, for a job that waits and for a queue that is held."""
    both = pair()
    with both.proxy, running(both.daemon):  # no server yet
        file = both.put()
        wait_until("it waits", both.daemon.jobs, 30, both.daemon.text)
        both.step("daemon", offset)
        both.proxy.plan = lambda seen: Answer(503) if seen.path == "/initiateUploadSession" else None
        with running(both.server):
            wait_until("it asks", lambda: both.proxy.count("/initiateUploadSession") >= 2, 30, both.daemon.text)
            both.step("daemon", 0)
            both.proxy.plan = lambda seen: None
            both.arrives(file)


@pytest.mark.parametrize("offset", [DAY, pytest.param(-DAY, marks=pytest.mark.long)], ids=["+1 day", "-1 day"])
def test_a_step_while_a_file_settles(pair: Callable[..., Pair], offset: int) -> None:
    """While it is written a step neither makes a file quiet nor keeps it from becoming so: one job, the whole file."""
    both = pair(folder={"settle": "4s"})
    with both.proxy, running(both.server), running(both.daemon):
        file = both.outbox / "growing"
        for number in range(12):
            with file.open("ab") as growing:
                growing.write(os.urandom(1000))
            if number == 4:
                both.step("daemon", offset)
            time.sleep(0.25)
        both.arrives(file)
        both.daemon.wait_idle()
        assert len(both.daemon.ctl("history")["jobs"]) == 1


def test_a_step_before_a_scan_finds_a_file(pair: Callable[..., Pair]) -> None:
    """A file that no event told of, and that a clock set forward makes look a day old: it settles all the same."""
    both = pair(folder={"settle": "3s", "poll": True})
    both.put(1000)
    with both.proxy, running(both.server), running(both.daemon):
        both.daemon.wait_idle()
        file = both.outbox / "growing"
        file.write_bytes(os.urandom(1000))
        both.step("daemon", DAY)
        both.daemon.ctl("rescan", "outbox", "--wait")
        time.sleep(1)  # the writer pauses, for less than the settle time
        with file.open("ab") as growing:
            growing.write(os.urandom(1000))
        both.arrives(file)
        both.daemon.wait_idle()
        assert len(both.daemon.ctl("history")["jobs"]) == 2


@pytest.mark.parametrize("who", [*(pytest.param(who, marks=pytest.mark.long) for who in ("daemon", "server")), "both"])
def test_from_1970_to_now(pair: Callable[..., Pair], who: str) -> None:
    """Set right in the middle of a file: all arrive, and after a restart none is sent again."""
    both = pair(uploads={"bandwidth": "2MiB/s"})
    for name, clock in both.clocks.items():
        if who in (name, "both"):
            clock.set_1970()
    with both.proxy:
        with running(both.server), running(both.daemon):
            both.arrives(both.put(MIB // 2))
            begun = both.proxy.body_bytes
            file = both.put(2 * MIB)
            wait_until("it is under way", lambda: both.proxy.body_bytes >= begun + MIB // 2, 30, both.daemon.text)
            both.step("both", 0)
            both.arrives(file)
            both.daemon.wait_idle()
        sent = both.proxy.body_bytes
        with running(both.server), running(both.daemon):
            both.arrives(both.put(1000))
            both.daemon.wait_idle()
            assert both.proxy.body_bytes <= sent + 1000


@pytest.mark.parametrize("offset", [-YEARS, pytest.param(YEARS, marks=pytest.mark.long)], ids=["behind", "ahead"])
def test_sent_is_sent_whatever_the_clock(pair: Callable[..., Pair], offset: int) -> None:
    """After a restart with another clock: what was sent is not sent again, by no scan either; what is new is sent."""
    both = pair()
    with both.proxy, running(both.server):
        files = [both.put(1000)]
        for now in (0, offset):
            both.step("daemon", now)
            with running(both.daemon):
                files.append(both.put(1000))
                for file in files:
                    both.arrives(file)
                both.daemon.wait_idle()
                both.daemon.ctl("rescan", "outbox", "--wait")
                both.daemon.wait_idle()
                assert len(both.daemon.ctl("history")["jobs"]) == len(files)


@pytest.mark.parametrize("offset", [pytest.param(DAY, marks=pytest.mark.long), -DAY], ids=["+1 day", "-1 day"])
def test_a_date_to_come_back(pair: Callable[..., Pair], offset: int) -> None:
    """Retry-After as a date counts from the date of the answer: our clock may be a day off."""
    both = pair()
    both.step("daemon", offset)
    now = time.time()
    dates = (("Date", formatdate(now, usegmt=True)), ("Retry-After", formatdate(now + 2, usegmt=True)))
    asked: list[float] = []

    def plan(seen: Seen) -> Fault | None:
        if seen.path != "/initiateUploadSession":
            return None
        asked.append(time.monotonic())
        return Answer(503, headers=dates) if len(asked) == 1 else None

    both.proxy.plan = plan
    with both.proxy, running(both.server), running(both.daemon):
        both.arrives(both.put())
        first, second = asked
        assert second - first >= 0.9, "two seconds by dates that have no fractions"


@pytest.mark.parametrize("offset", [DAY, pytest.param(-DAY, marks=pytest.mark.long)], ids=["+1 day", "-1 day"])
def test_a_session_and_a_step(tmp_path: Path, library: Path, offset: int) -> None:
    """A session's time is counted, not read off the wall: a day ahead ends none, a day back keeps none for longer."""
    clock = Clock(tmp_path, library, "server")
    server = Server(tmp_path, env=clock.env, limits={"session_ttl": "8s", "reserve": "1MiB"})
    with running(server):
        client = Client(server.url)
        opened = client.initiate(Initiate("0" * 64, MIB, b"file"), "key")
        clock.set(offset)
        began = time.monotonic()
        time.sleep(2)  # rounds of housekeeping in which nothing is to happen
        alive = os.listdir(server.data / "partial")
        assert alive == [opened.session_id] or time.monotonic() - began > 7, "it lives for eight seconds"
        wait_until("it expires", lambda: not os.listdir(server.data / "partial"), 20, server.text)


@pytest.mark.long
def test_a_timetable_follows_the_wall(pair: Callable[..., Pair]) -> None:
    """Paused by the timetable at noon; at midnight, when the clock is set there, the file goes."""
    noon = 12 * 3600 - int(time.time()) % DAY
    both = pair(uploads={"bandwidth": "00:00,unlimited 06:00,pause"})
    both.step("daemon", noon)
    with both.proxy, running(both.server), running(both.daemon):
        file = both.put(1000)
        wait_until("it is queued", both.daemon.jobs, 30, both.daemon.text)
        time.sleep(1)  # a while in which nothing is to happen
        assert not both.published(file).exists()
        both.step("daemon", noon - 11 * 3600)
        both.arrives(file)


def _begin_chunky(base: Path, clock: Clock, url: str, file: Path) -> Program:
    arguments = ("upload", "--state", str(base / "memory.sqlite3"), "--to", url, "--limit", "2MiB/s", str(file))
    program = Program(base, "chunky", "chunky", *arguments, "--chunk-size", "256KiB", env=clock.env)
    program.begin()
    return program


@pytest.mark.parametrize(
    "offset", [DAY, *(pytest.param(each, marks=pytest.mark.long) for each in (-DAY, YEARS, -YEARS))]
)
def test_a_step_under_chunky(tmp_path: Path, library: Path, offset: int) -> None:
    """Set in the middle of an upload, killed, and begun again with the right clock: one session, nothing sent twice."""
    clock, server = Clock(tmp_path, library, "chunky"), Server(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(os.urandom(4 * MIB))
    with running(server), FaultProxy(server.port) as proxy:
        chunky = _begin_chunky(tmp_path, clock, proxy.url, file)
        wait_until("it is under way", lambda: proxy.body_bytes >= MIB // 2, 30, chunky.text)
        clock.set(offset)
        wait_until("it goes on", lambda: proxy.body_bytes >= 2 * MIB, 30, chunky.text)
        chunky.kill()
        clock.set(0)
        chunky = _begin_chunky(tmp_path, clock, proxy.url, file)
        wait_until("it ends", lambda: not chunky.running(), 30, chunky.text)
        assert chunky.process is not None
        assert chunky.process.returncode == 0, chunky.text()
        assert sha256(server.files() / "file") == sha256(file)
        assert proxy.body_bytes <= 4 * MIB + 5 * 256 * 1024, "more than the chunks on their way came twice"
        assert proxy.count("/initiateUploadSession") == 1


@pytest.mark.parametrize("offset", [DAY, pytest.param(-DAY, marks=pytest.mark.long)], ids=["+1 day", "-1 day"])
def test_what_is_over_stays_over_after_a_step(tmp_path: Path, library: Path, offset: int) -> None:
    """A key is used up for as long as was meant: a day ahead makes no late request welcome, a day back no longer."""
    clock = Clock(tmp_path, library, "server")
    server = Server(tmp_path, env=clock.env, limits={"session_ttl": "5s", "reserve": "1MiB"})
    wanted = Initiate("0" * 64, MIB, b"file", client="a-client", order=1)
    with running(server), contextlib.closing(Client(server.url)) as client:
        opened = client.initiate(wanted, "a-key-that-is-used-up")
        assert client.end(opened.session_id, wanted.file_hash)
        clock.set(offset)
        wait_until("the step is seen", lambda: "the clock was stepped" in server.text(), 10, server.text)
        with pytest.raises(Problem) as refused:
            client.initiate(wanted, "a-key-that-is-used-up")
        assert refused.value.name == "session-expired"
        assert not os.listdir(server.data / "partial")
        wait_until("it is forgotten in its time", lambda: _remembered(server) == 0, 30, server.text)


def _remembered(server: Server) -> int:
    """Rows of what is over: used-up keys and orders, and sessions."""
    with contextlib.closing(sqlite3.connect(f"file:{server.data}/catalog.sqlite3?mode=ro", uri=True)) as rows:
        (number,) = rows.execute("SELECT (SELECT count(*) FROM wish) + (SELECT count(*) FROM session)").fetchone()
    return int(number)


@pytest.mark.long
def test_a_lease_and_a_step(pair: Callable[..., Pair]) -> None:
    """A writer is let in at once, whatever the clock says: the kernel alone would make it wait 45 seconds."""
    both = pair(uploads={"bandwidth": "1MiB/s"})
    with both.proxy, running(both.server), running(both.daemon):
        file = both.put(4 * MIB)
        wait_until("it is under way", lambda: both.proxy.body_bytes >= MIB // 2, 30, both.daemon.text)
        both.step("daemon", -YEARS)
        asked = time.monotonic()
        with file.open("ab") as writer:
            assert time.monotonic() - asked < 20, "of 45 seconds"
            writer.write(b"more")
        both.arrives(file)
