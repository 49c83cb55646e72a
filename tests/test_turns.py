"""Turns: one thread at a time, but nobody waits for long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from chunkyd import turns
from chunkyd.turns import in_turn


def is_free() -> bool:
    """Whether another thread gets a turn at once."""

    def take() -> bool:
        taken = turns._turns.lock.acquire(timeout=0)
        if taken:
            turns._turns.lock.release()
        return taken

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stretch begins before the one under way has ended."""
    monkeypatch.setattr(turns, "_MOMENT", 30.0)
    inside, most = 0, 0

    def stretch(_: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with in_turn():
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.00001)  # as a system call: others may run
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stretch, range(4)))
    assert (most, inside) == (1, 0)


def test_whoever_is_held_up_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs under one thread: the others go on beside it, and take turns again when it is over."""
    hanging, over = threading.Event(), threading.Event()

    def hang() -> None:
        with in_turn():
            hanging.set()
            assert over.wait(30)

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        assert hanging.wait(30)
        with in_turn():  # it returns
            assert not over.is_set()
        monkeypatch.setattr(turns, "_MOMENT", 30.0)
        begun = time.monotonic()
        for _ in range(100):
            with in_turn():  # and is not waited for again
                assert not over.is_set()
        assert time.monotonic() - begun < 30
    finally:
        over.set()
        thread.join(30)
    assert is_free()
    assert not turns._turns.hanging


def test_a_stretch_within_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for nobody."""
    monkeypatch.setattr(turns, "_MOMENT", 30.0)
    with in_turn(), in_turn():
        pass
    assert is_free()


def test_an_error_ends_a_turn() -> None:
    """It comes through, and the next one begins at once."""
    with pytest.raises(OSError, match="no disk"), in_turn():
        raise OSError("no disk")
    assert is_free()
