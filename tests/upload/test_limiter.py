"""The limiter: the rate holds, for any number of senders, and can be changed under them."""

from __future__ import annotations

import threading
import time

import pytest

from chunkyd.errors import Interrupted
from chunkyd.upload.limiter import Limiter


def nothing() -> None:
    """Go on."""


class _Moving:
    """A clock on which waiting is free: asking for the time moves it a little."""

    def __init__(self) -> None:
        self.now = 100.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        self.now += 0.0005
        return self.now


def test_unlimited_grants_everything_at_once() -> None:
    """Without a rate a megabyte is a megabyte."""
    assert Limiter(None).take(1 << 20, nothing) == 1 << 20


@pytest.mark.parametrize("rate", [100_000, 1_000_000, 50_000_000])
def test_the_rate_holds_within_five_percent(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over ten seconds the bytes granted are the rate times the time."""
    clock = _Moving()
    limiter = Limiter(rate, clock)
    monkeypatch.setattr(limiter._changed, "wait", lambda seconds: setattr(clock, "now", clock.now + seconds))
    began, granted = clock.now, 0
    while clock.now - began < 10:
        granted += limiter.take(1 << 20, nothing)
    assert 0.95 < granted / (rate * (clock.now - began)) < 1.05


def test_slices_are_small_so_that_the_rate_is_smooth() -> None:
    """A megabyte asked for at 1 MB/s is granted in slices of a twentieth of a second."""
    assert Limiter(1_000_000).take(1 << 20, nothing) == 50_000


def test_a_change_reaches_those_who_wait() -> None:
    """A sender held at a tiny rate goes on as soon as the rate is lifted."""
    limiter = Limiter(0)
    granted: list[int] = []
    waiting = threading.Thread(target=lambda: granted.append(limiter.take(1000, nothing)), daemon=True)
    waiting.start()
    limiter.set_rate(None)
    waiting.join(10)
    assert granted == [1000]


def test_a_waiting_sender_can_be_stopped() -> None:
    """What `proceed` raises ends the wait."""
    stopped = threading.Event()

    def proceed() -> None:
        if stopped.is_set():
            raise Interrupted("stopped")

    outcome: list[BaseException] = []

    def send() -> None:
        try:
            Limiter(0).take(10, proceed)
        except Interrupted as error:
            outcome.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    stopped.set()
    sender.join(10)
    assert outcome


def test_many_senders_share_one_rate() -> None:
    """Four threads together get no more than the rate (real time, generous bounds)."""
    limiter = Limiter(2_000_000)
    total = 0
    guard = threading.Lock()
    until = time.monotonic() + 0.6

    def send() -> None:
        nonlocal total
        while time.monotonic() < until:
            granted = limiter.take(1 << 20, nothing)
            with guard:
                total += granted

    began = time.monotonic()
    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)
    assert total <= 2_000_000 * (time.monotonic() - began) * 1.05 + 500_000
