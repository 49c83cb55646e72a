"""One pass over the folders: find what is new, send it, wait for the end. For cron."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

import msgspec

from chunkyd.clock import Clock
from chunkyd.daemon.engine import Engine
from chunkyd.daemon.lock import StateLock
from chunkyd.jobs.states import Reason, State
from chunkyd.settings import DaemonSettings
from chunkyd.upload.source import install_lease_handler

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 8.0
_MOST_SCANS = 3
_AT_WORK = frozenset({State.QUEUED, State.HASHING, State.UPLOADING, State.FINISHING, State.WAITING})


class PassOutcome(msgspec.Struct, frozen=True, rename="camel"):
    """How a pass ended; jobs by number. `left`: paused for a reason of their own, or never settled."""

    done: int
    failed: int
    left: int
    changing: int
    interrupted: bool
    unreachable: bool


def run_once(settings: DaemonSettings, config: str, environ: Mapping[str, str], clock: Clock) -> PassOutcome:
    """Carry out one pass in this process. Raises AlreadyRunning beside a daemon, which would do the same anyway."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    install_lease_handler()
    os.umask(0o077)
    lock = StateLock(settings.state_dir)
    lock.acquire()
    try:
        engine = Engine(settings, config, environ, clock)
        before = engine.counts().get(State.DONE, 0)
        engine.start_sending()
        try:
            return _passes(engine, stop, before)
        finally:
            engine.stop(_STOP_SECONDS)
    finally:
        lock.release()


def _passes(engine: Engine, stop: threading.Event, before: int) -> PassOutcome:
    """Scan and send; once more where a file changed while it was sent, since nobody watches for its new version."""
    for _ in range(_MOST_SCANS):
        superseded = _superseded(engine)
        changing = engine.scan_once(stop)
        _wait(engine, stop)
        changed = _superseded(engine) - superseded
        if changed <= 0 or stop.is_set() or engine.queue.held() is not None:
            break
    return _outcome(engine, stop, before, changing + max(0, changed))


def _superseded(engine: Engine) -> int:
    return engine.counts().get(State.SUPERSEDED, 0)


def _wait(engine: Engine, stop: threading.Event) -> None:
    while not stop.wait(_LOOK_SECONDS):
        counts = engine.counts()
        if engine.queue.held() is not None or not any(counts.get(state, 0) for state in _AT_WORK):
            return


def _outcome(engine: Engine, stop: threading.Event, before: int, changing: int) -> PassOutcome:
    counts, held = engine.counts(), engine.queue.held()
    return PassOutcome(
        done=counts.get(State.DONE, 0) - before,
        failed=counts.get(State.FAILED, 0),
        left=sum(counts.get(state, 0) for state in _AT_WORK | {State.PAUSED}) + changing,
        changing=changing,
        interrupted=stop.is_set(),
        unreachable=held is not None and held.reason is Reason.NETWORK,
    )
