"""The thread that looks after a client's requests."""

from __future__ import annotations

import threading

from chunkyd.clock import SystemClock
from chunkyd.upload.connection import Switch, Watchdog
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
