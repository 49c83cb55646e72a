"""`chunkyd once`: one look at everything."""

from __future__ import annotations

import os
import threading
import time

import pytest

from chunkyd.clock import SystemClock
from chunkyd.errors import StateError
from chunkyd.watch.shapes import WatchedRoot
from chunkyd.watch.watcher import one_pass
from tests.watch.conftest import SETTLE, House, eventually


def test_one_pass_waits_until_all_has_settled(house: House) -> None:
    """A file that was just written is waited for; one of long ago and one that is known are not."""
    house.write(b"fresh")
    found = one_pass([house.root()], house.daemon, house.daemon, SystemClock(), threading.Event())
    assert house.daemon.paths() == {b"fresh"}
    assert found[0].files == 1
    one_pass([house.root()], house.daemon, house.daemon, SystemClock(), threading.Event())
    assert house.daemon.count(b"fresh") == 1


def test_one_pass_does_not_wait_for_a_file_that_never_settles(house: House) -> None:
    """A file that is written all the time is reported as changing; a missing root as missing."""
    end = threading.Event()

    def scribble() -> None:
        with open(os.path.join(house.path, b"log"), "ab", buffering=0) as file:
            while not end.wait(SETTLE / 20):
                file.write(b"x")

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        eventually(lambda: os.path.exists(os.path.join(house.path, b"log")))
        roots = [house.root(settle=0.5), WatchedRoot("none", str(house.folder / "none"))]
        found = one_pass(roots, house.daemon, house.daemon, SystemClock(), threading.Event())
    finally:
        end.set()
        writer.join()
    assert found[0].changing_paths == (b"log",)
    assert found[1].state == "missing"


def test_one_pass_ends_when_it_is_told(house: House) -> None:
    """A signal ends the wait."""
    house.write(b"a")
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    one_pass([house.root(settle=60.0)], house.daemon, house.daemon, SystemClock(), stop)
    assert time.monotonic() - began < 10


def test_one_pass_fails_where_nothing_can_be_recorded(house: House) -> None:
    """A pass that could not record what it found is no success."""
    house.daemon.broken = True
    house.write(b"a")
    with pytest.raises(StateError):
        one_pass([house.root()], house.daemon, house.daemon, SystemClock(), threading.Event())
