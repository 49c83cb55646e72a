"""What a proxy of the tests can do to a request, an answer or a connection."""

from __future__ import annotations

import dataclasses
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal

HTML = b"<html><body>Please log in to the airport's network</body></html>"


@dataclasses.dataclass(frozen=True)
class Cut:
    """Forward so many bytes of the body, then reset both sides."""

    after: int = 0


@dataclasses.dataclass(frozen=True)
class Stall:
    """Forward so many bytes of the body, then nothing any more until the client goes away; the rest is taken."""

    after: int = 0


@dataclasses.dataclass(frozen=True)
class Break:
    """End the connection somewhere: in the request's head, in its body, once the server has done its work, in the
    answer, or after it. `reset`: RST to both; `close`: FIN; `silence`: nothing is read or sent any more, on either
    side. `after`: so many bytes of the head, the body or the answer are passed on; 0 means most of them.
    """

    where: Literal["head", "body", "work", "answer", "idle"]
    how: Literal["reset", "close", "silence"] = "reset"
    after: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer in the server's place, at once, without reading the body; then close."""

    status: int
    body: bytes = HTML
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/html"),)
    linger: float = 0.0  # seconds to go on reading before the connection is closed


@dataclasses.dataclass(frozen=True)
class Swallow:
    """Let the server do its work, and lose its answer."""


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """Turn one bit of the body's byte at this place."""

    at: int = 0


@dataclasses.dataclass(frozen=True)
class Mangle:
    """Deliver what this makes of the request's head."""

    change: Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """Let the server do its work, and deliver what this makes of its answer (head and body)."""

    change: Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Twice:
    """Let the server have the request twice; the client sees the second answer."""


@dataclasses.dataclass(frozen=True)
class Trickle:
    """Deliver the answer byte by byte, one in so many seconds."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Hold:
    """Have the whole request, and deliver it when the event is set; by then its client may have gone."""

    until: threading.Event


Fault = Hold | Cut | Stall | Break | Answer | Swallow | Corrupt | Mangle | Rewrite | Twice | Trickle


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """With one bit turned."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def reset(connected: socket.socket) -> None:
    """Close with a reset instead of a goodbye."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connected.detach())  # `close` would wait for whoever has made a file of it


def wait_for_leave(connected: socket.socket, ended: threading.Event) -> None:
    """Until the other end has gone; nothing is read, nothing is said."""
    poll = select.poll()
    poll.register(connected, select.POLLRDHUP)
    while not ended.is_set() and not poll.poll(200):
        pass
