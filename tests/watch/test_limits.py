"""Too many directories, too many events, no inotify at all."""

from __future__ import annotations

import os
import resource

import pathspec  # noqa: F401  # loaded late by the program; here before no file can be opened
import pytest

from chunkyd.watch.observer import Channel, Hint, Kind
from chunkyd.watch.watcher import Watcher
from tests.watch.conftest import House, eventually


def test_the_watch_limit(house: House) -> None:
    """Directories beyond the limit are polled, the status is degraded and names the sysctl and its value."""
    for number in range(10):
        house.write(b"d%d/file" % number)
    house.watch(watch_limit=6)
    house.arrived(*(b"d%d/file" % number for number in range(10)))
    status = house.status()
    assert status.state == "degraded"
    assert status.problem == "5 of 11 directories cannot be watched; these are polled"
    assert "fs.inotify.max_user_watches=" in status.mend
    for number in range(10):
        house.write(b"d%d/later" % number)
    house.write(b"d9/new/deep/file")
    house.arrived(b"d9/new/deep/file", *(b"d%d/later" % number for number in range(10)))


def test_room_under_the_limit_is_used(house: House) -> None:
    """When directories go, their watches serve others, and the trouble ends by itself."""
    for number in range(4):
        house.write(b"d%d/file" % number)
    watcher = house.watch(watch_limit=3)
    assert house.status().state == "degraded"
    for number in range(3):
        os.rename(house.folder / f"d{number}", house.folder.parent / f"d{number}")
    assert watcher.rescan().wait(10)
    eventually(lambda: house.status().state == "watching")
    house.write(b"d3/later")
    house.arrived(b"d3/later")


def test_an_overflow_loses_nothing(house: House) -> None:
    """When the kernel's queue overflows the watches stay and a rescan finds what no event told."""
    house.write(b"d/a")
    watcher = house.watch()
    house.arrived(b"d/a")
    reader = watcher._observer._reader
    assert reader is not None
    lock = reader._lock
    with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as file:
        limit = int(file.read())
    before = house.daemon.heard("scanned")
    names = [b"d/%d" % number for number in range(300)]
    with lock:  # the reader cannot look events up meanwhile: the queue fills
        for number in range(limit * 2 // 5 + 1000):
            name = os.path.join(house.path, b"d", b"x%d.part" % number)
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.unlink(name)
        for name in names:
            house.write(name)
        house.write(b"new/tree/file")
    house.arrived(*names, b"new/tree/file")
    eventually(lambda: house.daemon.heard("scanned") > before)
    house.write(b"new/tree/later")
    house.write(b"d/later")
    house.arrived(b"new/tree/later", b"d/later")


def test_a_stuck_reader_costs_a_rescan_and_no_memory() -> None:
    """A mailbox that nobody empties gets one word of an overflow and nothing more until that was noticed."""
    got: list[Hint] = []
    channel = Channel(got.append, lambda: 60_000)
    for _ in range(10):
        channel.post(Hint(Kind.TOUCHED))
    assert got == [Hint(Kind.OVERFLOW)]
    channel.noticed()
    channel.post(Hint(Kind.TOUCHED))
    assert len(got) == 2


def test_without_inotify_folders_are_polled(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user has no inotify instance left, the folder is polled, and the status says what to raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    watcher = Watcher([house.root()], house.daemon, house.daemon, _clock())
    house.watcher = watcher
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(3, used), hard))
    try:
        watcher.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    house.write(b"a")
    assert watcher.rescan().wait(10)
    house.arrived(b"a")
    assert house.status().state == "degraded"
    assert "max_user_instances" in house.status().mend


def test_polling(house: House) -> None:
    """A polled folder is looked at every few seconds; nothing is watched in it."""
    house.watch(poll=True)
    assert house.status().state == "polling"
    house.write(b"deep/down/a")
    house.arrived(b"deep/down/a")
    assert house.status().state == "polling"


def _clock():  # type: ignore[no-untyped-def]
    from chunkyd.clock import SystemClock

    return SystemClock()
