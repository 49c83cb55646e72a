"""What systemd is told (sd_notify): ready, status, reloading, stopping, alive. Without $NOTIFY_SOCKET: nothing.

By hand, a datagram each: a library would be larger than this. A message that cannot be delivered is not an error of
the program: systemd acts on its absence.
"""

from __future__ import annotations

import logging
import os
import time

_log = logging.getLogger("chunkyd.notify")

_PATIENCE = 5.0  # seconds; systemd's queue is full only while it is stuck itself
_MICROSECONDS = 1_000_000


def ready(status: str = "") -> None:
    """Start-up (or a reload) is finished."""
    _send("READY=1", *_status(status))


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _send(*_status(text))


def reloading(status: str = "") -> None:
    """The configuration is being read again; `ready` says when that is done. Needed by Type=notify-reload."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _send("RELOADING=1", f"MONOTONIC_USEC={now}", *_status(status))


def stopping(status: str = "") -> None:
    """The clean stop has begun."""
    _send("STOPPING=1", *_status(status))


def watchdog() -> None:
    """The loops that do the work are alive: to be called by them, not by a thread of its own."""
    _send("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """How often `watchdog` is to be called, in seconds: half of what systemd waits; None where it does not watch us."""
    try:
        limit = int(os.environ["WATCHDOG_USEC"])
        watched = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return limit / _MICROSECONDS / 2 if limit > 0 and watched == os.getpid() else None


def _status(text: str) -> tuple[str, ...]:
    """The status as one line: a line break in it would begin another assignment."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return (f"STATUS={line}",) if text else ()


def _send(*assignments: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or not assignments:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    message = "\n".join(assignments).encode("utf-8", "backslashreplace")
    import socket  # when all is loaded: nothing is told before a daemon is ready

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_PATIENCE)
            channel.sendto(message, address)
    except OSError as error:
        _log.debug("systemd was not told %s: %s", assignments[0], error)
