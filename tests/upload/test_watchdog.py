"""The thread that looks after a client's requests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from chunkyd.clock import SystemClock
from chunkyd.upload.connection import Exchange, Switch, Watchdog
from tests.e2e.programs import wait_until


def watchdogs() -> set[threading.Thread]:
    """Those of this process."""
    return {thread for thread in threading.enumerate() if thread.name == "chunky-watchdog"}


def test_a_client_that_nobody_uses_keeps_no_thread() -> None:
    """A daemon whose token is replaced every hour does not gather threads; the next request finds one again."""
    others = watchdogs()
    watchdog = Watchdog(SystemClock(), retire=0.01)
    for _ in range(3):
        with watchdog.watch(Switch()):
            assert watchdogs() - others
        wait_until("the thread has ended", lambda: not watchdogs() - others)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        ours = stack.enter_context(socket.create_connection(listener.getsockname()))
        theirs = stack.enter_context(listener.accept()[0])
        yield ours, theirs


@pytest.mark.parametrize(("moved", "stalled"), [(0, True), (30, True), (511, True), (512, False)])
def test_single_bytes_are_no_progress(pair: tuple[socket.socket, socket.socket], moved: int, stalled: bool) -> None:
    """Fewer than 512 bytes within 30 s, and the connection is cut; not a moment earlier, and not with so many."""
    ours, theirs = pair
    exchange = Exchange(Switch())
    exchange.attach(ours)
    exchange.look(100.0)
    theirs.sendall(b"x" * moved)
    with ours.makefile("rb") as stream:
        assert len(stream.read(moved)) == moved
    exchange.look(129.9)
    assert not exchange.stalled
    exchange.look(130.0)
    assert exchange.stalled == stalled
