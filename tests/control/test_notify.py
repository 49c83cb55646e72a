"""What systemd is told, over real datagram sockets."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd import notify


@pytest.fixture
def heard(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        channel.bind(str(short_folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_folder / "notify"))
        yield channel


def test_each_message_is_what_systemd_reads(heard: socket.socket):
    """Ready, status, reloading, stopping and the watchdog arrive as assignments, one a line."""
    notify.ready("watching 2 folders")
    assert heard.recv(4096) == b"READY=1\nSTATUS=watching 2 folders"
    notify.status("uploading")
    assert heard.recv(4096) == b"STATUS=uploading"
    notify.reloading()
    first, second = heard.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    notify.stopping()
    assert heard.recv(4096) == b"STOPPING=1"
    notify.watchdog()
    assert heard.recv(4096) == b"WATCHDOG=1"


def test_a_status_cannot_forge_another_assignment(heard: socket.socket):
    """Line breaks become spaces, and bytes that are not UTF-8 can be sent."""
    notify.status("a\nREADY=1\u2028\udcff")
    assert heard.recv(4096) == b"STATUS=a READY=1  "


def test_abstract_names_work(monkeypatch: pytest.MonkeyPatch):
    """A name that begins with @ is a socket without a file."""
    name = f"chunkyd-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        channel.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify.ready()
        assert channel.recv(4096) == b"READY=1"


@pytest.mark.parametrize("path", [None, "", "relative", "/nobody/there"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, path: str | None):
    """No socket, a nonsense one, or nobody behind it: the program goes on."""
    if path is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify.ready("x")
    notify.watchdog()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("x", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float | None
):
    """Only for this process, and only where systemd watches it."""
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_interval() == interval
