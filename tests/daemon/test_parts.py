"""The small parts of a daemon, each alone: the list of running uploads, homes of roots, the connection, the lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chunkyd.clock import SystemClock
from chunkyd.daemon.connection import Connection
from chunkyd.daemon.homes import Homes
from chunkyd.daemon.live import Live, LiveUpload
from chunkyd.daemon.lock import StateLock, holder
from chunkyd.daemon.pace import Pace
from chunkyd.errors import AlreadyRunning, ConfigError, StorageFull
from chunkyd.files import Fingerprint
from chunkyd.jobs.job import Change, Job
from chunkyd.jobs.opening import open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.settings import Remote
from tests.e2e.conftest import small_disk  # noqa: F401  # a fixture, found by its name


def a_job(folder: Path) -> Job:
    """A claimed one."""
    queue = Queue(open_tables(str(folder / "jobs.sqlite3"), SystemClock()).tables, SystemClock())
    queue.offer([Change("box", b"a", Fingerprint(1, 2, 3, 4, 5), 0)])
    job = queue.claim("run", ["box"])
    queue.close()
    assert job is not None
    return job


def test_a_job_claimed_anew_stays_listed(tmp_path: Path) -> None:
    """The worker that leaves a job last does not take its next worker off the list."""
    live, job = Live(), a_job(tmp_path)
    first, second = LiveUpload(job), LiveUpload(job)
    live.add(first)
    live.add(second)
    live.remove(first)
    assert live.all() == [second]
    assert not live.wait_until_none(0)
    live.remove(second)
    assert live.wait_until_none(0)


def test_homes_on_a_full_disk(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:  # noqa: F811
    """A root whose identity cannot be written down is told as a full disk, and is written down later."""
    disk = small_disk("1m")
    root = tmp_path / "root"
    root.mkdir()
    homes = Homes(str(disk), lambda: 0)
    with (disk / "ballast").open("wb", 0) as ballast, pytest.raises(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(StorageFull):
        homes.seen("box", str(root))
    (disk / "ballast").unlink()
    assert homes.seen("box", str(root)) is not None
    assert Homes(str(disk), lambda: 0).only("box", str(root)) == (root.stat().st_dev,)


def test_a_replaced_root_is_not_home(tmp_path: Path) -> None:
    """A job made under one root is at home there, not under what was put in its place, and again after its return."""
    state, root = tmp_path / "state", tmp_path / "root"
    state.mkdir()
    root.mkdir()
    homes = Homes(str(state), lambda: 7)

    def is_home(job: int, homes: Homes = homes) -> bool:
        return homes.is_home("box", job, homes.seen("box", str(root)))

    assert is_home(7)
    root.rename(tmp_path / "away")
    assert not is_home(7)
    root.mkdir()
    assert not is_home(7)
    assert is_home(8)
    root.rmdir()
    (tmp_path / "away").rename(root)
    assert is_home(7, Homes(str(state), lambda: 8))
    assert not is_home(8, Homes(str(state), lambda: 8))


def test_homes_of_another_job_table(tmp_path: Path) -> None:
    """Homes of jobs that a new table does not have count no more: its jobs begin with the first number again."""
    state, root = tmp_path / "state", tmp_path / "root"
    state.mkdir()
    root.mkdir()
    homes = Homes(str(state), lambda: 7)
    homes.seen("box", str(root))
    root.rename(tmp_path / "away")
    root.mkdir()
    homes.seen("box", str(root))
    anew = Homes(str(state), lambda: 0)
    assert anew.is_home("box", 1, anew.seen("box", str(root)))


def remote(url: str, token: Path) -> Remote:
    """Settings of a server."""
    return Remote(url=url, token_file=str(token), ca_file=None, proxy=None, allow_plain=False)


def test_refused_settings_leave_the_connection(tmp_path: Path) -> None:
    """Settings that cannot be used change nothing: neither the client nor what the next look compares with."""
    token = tmp_path / "token"
    token.write_text("one")
    good = remote("http://127.0.0.1:1", token)
    told: list[str] = []
    connection = Connection(good, {}, SystemClock(), told.append)
    client = connection.client
    with pytest.raises(ConfigError):
        connection.refresh(remote("http://127.0.0.1:2", tmp_path / "missing"))
    with pytest.raises(ConfigError):  # a token over plain HTTP to another machine
        connection.refresh(remote("http://files.example.org", token))
    assert connection.client is client
    assert not connection.refresh()
    token.write_text("two")
    assert connection.refresh()
    assert connection.client is not client
    assert connection.url == "http://127.0.0.1:1"
    assert told == []


def test_another_server_is_told_before_anybody_sends_there(tmp_path: Path) -> None:
    """Once for each change, not for another spelling of its end; where it cannot be recorded, all stays as it was."""
    token = tmp_path / "token"
    token.write_text("one")
    told: list[tuple[str, str]] = []
    connection: Connection

    def moving(url: str) -> None:
        told.append((connection.url, url))
        if len(told) == 1:
            raise StorageFull("no room")

    connection = Connection(remote("http://127.0.0.1:1", token), {}, SystemClock(), moving)
    other = remote("http://127.0.0.1:2", token)
    with pytest.raises(StorageFull):
        connection.refresh(other)
    assert connection.url == "http://127.0.0.1:1"
    assert connection.refresh(other)
    assert connection.refresh(remote("http://127.0.0.1:2/", token))
    assert told == [("http://127.0.0.1:1", "http://127.0.0.1:2")] * 2


def test_lock(tmp_path: Path) -> None:
    """Held by one, told by number, free again after release."""
    first = StateLock(str(tmp_path))
    first.acquire()
    with pytest.raises(AlreadyRunning):
        StateLock(str(tmp_path)).acquire()
    assert holder(str(tmp_path)) is not None
    first.release()
    assert holder(str(tmp_path)) is None
    StateLock(str(tmp_path)).acquire()


def test_what_fails_is_tried_ever_more_rarely() -> None:
    """After a second, two, four …, a minute at most; a success begins anew."""
    pace, now, pauses = Pace(), 100.0, []
    assert pace.due(now)
    for _ in range(9):
        pace.tried(False, now)
        pauses.append(pace.next - now)
        assert not pace.due(pace.next - 0.001)
        now = pace.next
        assert pace.due(now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pace.tried(True, now)
    assert pace.due(now)
    pace.tried(False, now)
    assert pace.next == now + 1
