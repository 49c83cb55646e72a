"""A proxy that breaks things: it reads whole requests, and does to each what the plan says.

    with FaultProxy(server_port) as proxy:
        proxy.plan = lambda request: Cut(1000) if request.path == "/uploadChunk" and request.number == 3 else None

`proxy.requests` lists every request seen, in order; faults are given as objects below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

HTML = b"<html><body>Please log in to the airport's network</body></html>"


@dataclasses.dataclass(frozen=True)
class Cut:
    """Forward so many bytes of the body, then reset both sides."""

    after: int = 0


@dataclasses.dataclass(frozen=True)
class Stall:
    """Forward so many bytes of the body, then nothing any more until the client goes away."""

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
class Trickle:
    """Deliver the answer byte by byte, one in so many seconds."""

    seconds: float


Fault = Cut | Stall | Answer | Swallow | Corrupt | Trickle


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request: its number over all connections counts from 1."""

    number: int
    method: str
    path: str
    headers: dict[str, str]


class FaultProxy:
    """Listens on a port of its own and forwards to the server's."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.plan: Callable[[Seen], Fault | None] = lambda seen: None
        self.requests: list[Seen] = []
        self.body_bytes = 0
        self._guard = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def count(self, path: str) -> int:
        """How many requests came for this path."""
        return sum(seen.path == path for seen in self.requests)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = None
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
            from_client, from_server = client.makefile("rb"), server.makefile("rb")
            while head := _head(from_client):
                seen = self._note(head)
                if not self._forward(seen, head, client, server, from_client, from_server):
                    return
        except OSError:
            pass
        finally:
            for each in (client, server):
                if each is not None:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                    each.close()

    def _note(self, head: bytes) -> Seen:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        with self._guard:
            seen = Seen(len(self.requests) + 1, method, path, headers)
            self.requests.append(seen)
        return seen

    def _forward(self, seen: Seen, head: bytes, client, server, from_client, from_server) -> bool:
        fault = self.plan(seen)
        if isinstance(fault, Answer):
            self._answer(fault, client)
            return False
        server.sendall(head)
        length = int(seen.headers.get("content-length", 0))
        done = 0
        while done < length:
            limit = fault.after - done if isinstance(fault, Cut | Stall) else length - done
            if limit <= 0:
                break
            piece = from_client.read1(min(65536, length - done, limit))
            if not piece:
                return False
            if isinstance(fault, Corrupt) and done <= fault.at < done + len(piece):
                changed = bytearray(piece)
                changed[fault.at - done] ^= 1
                piece = bytes(changed)
            server.sendall(piece)
            done += len(piece)
            with self._guard:
                self.body_bytes += len(piece)
        if isinstance(fault, Cut):
            _reset(client)
            _reset(server)
            return False
        if isinstance(fault, Stall):
            self._swallow_rest(from_client)
            return False
        return self._answer_back(fault, client, from_server)

    def _answer(self, fault: Answer, client: socket.socket) -> None:
        lines = [f"HTTP/1.1 {fault.status} As planned", f"Content-Length: {len(fault.body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in fault.headers]
        client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + fault.body)
        client.settimeout(0.05)
        deadline = time.monotonic() + fault.linger
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if not client.recv(1000):
                    return

    def _swallow_rest(self, from_client) -> None:
        while not self._ended.is_set() and from_client.read1(65536):
            pass

    def _answer_back(self, fault: Fault | None, client: socket.socket, from_server) -> bool:
        head = _head(from_server)
        if not head:
            return False
        length = 0
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        answer = head + from_server.read(length)
        if isinstance(fault, Swallow):
            return False
        if isinstance(fault, Trickle):
            for place in range(len(answer)):
                if self._ended.wait(fault.seconds):
                    return False
                client.sendall(answer[place : place + 1])
        else:
            client.sendall(answer)
        return b"connection: close" not in head.lower()


def _head(stream) -> bytes:
    lines = []
    while line := stream.readline(65536):
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _reset(connected: socket.socket) -> None:
    """Close with a reset instead of a goodbye."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
