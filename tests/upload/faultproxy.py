"""A proxy that breaks things: it reads whole requests, and does to each what the plan says.

    with FaultProxy(server_port) as proxy:
        proxy.plan = lambda request: Cut(1000) if request.path == "/uploadChunk" and request.number == 3 else None

`proxy.requests` lists every request seen, in order; the faults are objects (tests/upload/netfaults.py). A plan runs in
the thread of the connection that brought the request: while it waits, this request is held back and others overtake it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

from tests.upload.netfaults import (
    Answer,
    Break,
    Corrupt,
    Cut,
    Fault,
    Hold,
    Mangle,
    Rewrite,
    Stall,
    Swallow,
    Trickle,
    Twice,
    flipped,
    reset,
    wait_for_leave,
)

__all__ = [
    "Answer",
    "Break",
    "Corrupt",
    "Cut",
    "Fault",
    "FaultProxy",
    "Hold",
    "Rewrite",
    "Seen",
    "Stall",
    "Swallow",
    "Trickle",
]


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request: its number over all connections counts from 1; `file_hash` from its head, or an initiate's body;
    where the hash comes late, what stands for it.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    file_hash: str = ""
    connection: int = 0


class FaultProxy:
    """Listens on a port of its own and forwards to the server's."""

    def __init__(
        self, server_port: int, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server_port = server_port
        self.tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.plan: Callable[[Seen], Fault | None] = lambda seen: None
        self.welcome: Callable[[int], str | None] = lambda number: (
            None
        )  # "reset", "silence", "close", …: never a request
        self.requests: list[Seen] = []
        self.body_bytes = 0
        self.bytes_of: Counter[str] = Counter()  # of the chunks' bodies, by file hash
        self.connections = 0
        self._guard = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._ended = threading.Event()
        self._open: set[socket.socket] = set()

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

    def cut_all(self) -> None:
        """End every connection there is now, those too that hang."""
        with self._guard:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def count(self, path: str) -> int:
        """How many requests came for this path."""
        return sum(seen.path == path for seen in self.requests)

    def sever(self) -> None:
        """Every connection there is now ends."""
        with self._guard:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        server = None
        try:
            match self.welcome(number):
                case "reset":
                    return reset(client)
                case "silence":
                    return wait_for_leave(client, self._ended)
                case "close":
                    return None
                case "plain":
                    return client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                case "tls":
                    return client.sendall(b"\x15\x03\x01\x00\x02\x02\x46\r\n")  # an alert
            if self.tls is not None:
                client = self.tls.wrap_socket(client, server_side=True)
            with self._guard:
                self._clients.add(client)
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._guard:
                self._open |= {client, server}
            _Carrier(self, client, server, number).carry()
        except OSError:
            pass
        finally:
            with self._guard:
                self._open -= {client, server}
            for each in (client, server):
                if each is not None:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                    each.close()

    def note(self, head: bytes, connection: int, body: bytes) -> Seen:
        """Remember a request."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = fields(lines)
        file_hash = headers.get("chunky-file-hash", "")
        with contextlib.suppress(ValueError, AttributeError):
            document = json.loads(body)
            file_hash = file_hash or str(document.get("fileHash") or document.get("fileVersion", ""))
        with self._guard:
            seen = Seen(len(self.requests) + 1, method, path, headers, file_hash, connection)
            self.requests.append(seen)
        return seen

    def count_body(self, seen: Seen, count: int) -> None:
        """So many bytes of a chunk came by."""
        with self._guard:
            self.body_bytes += count
            self.bytes_of[seen.file_hash] += count

    @property
    def ended(self) -> threading.Event:
        """The end of all waiting."""
        return self._ended


class _Carrier:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket, number: int) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._number = number
        self._from_client: BinaryIO = client.makefile("rb")
        self._from_server: BinaryIO = server.makefile("rb")

    def carry(self) -> None:
        """Request after request, until one side leaves or the plan ends it."""
        while head := read_head(self._from_client):
            length = int(fields(head.decode("latin-1").split("\r\n")).get("content-length", 0))
            early = self._from_client.read(length) if head.startswith(b"POST") else b""  # small, and says which file
            seen = self._proxy.note(head, self._number, early)
            body: BinaryIO = io.BytesIO(early) if early else self._from_client
            if not self._forward(seen, self._proxy.plan(seen), head, body, length):
                return

    def _forward(self, seen: Seen, fault: Fault | None, head: bytes, body: BinaryIO, length: int) -> bool:
        if isinstance(fault, Answer):
            return self._answer(fault)
        if isinstance(fault, Break) and fault.where == "head":
            self._server.sendall(head[: fault.after or len(head) // 2])
            return self._break(fault.how)
        if isinstance(fault, Hold):
            fault.until.wait(120)
        if isinstance(fault, Mangle):
            head = fault.change(head)
        self._server.sendall(head)
        limit = fault.after if isinstance(fault, Cut | Stall | Break) and _where(fault) == "body" else length
        copy = self._pass_body(seen, body, min(limit, length), fault)
        if copy is None:
            return False
        if isinstance(fault, Cut | Stall | Break) and _where(fault) == "body":
            return self._break({Cut: "reset", Stall: "stall"}.get(type(fault)) or fault.how)
        if isinstance(fault, Twice):
            self._whole_answer()
            self._server.sendall(head + copy)
        return self._answer_back(fault)

    def _pass_body(self, seen: Seen, body: BinaryIO, length: int, fault: Fault | None) -> bytes | None:
        """What was passed on, where it will be wanted again; None where the client left in the middle."""
        done, copy = 0, bytearray()
        while done < length:
            piece = body.read1(min(65536, length - done))
            if not piece:
                return None
            if isinstance(fault, Corrupt) and done <= fault.at < done + len(piece):
                piece = flipped(piece, fault.at - done)
            if isinstance(fault, Twice):
                copy += piece
            self._server.sendall(piece)
            done += len(piece)
            self._proxy.count_body(seen, len(piece) if seen.method == "PATCH" else 0)
        return bytes(copy)

    def _break(self, how: str) -> bool:
        if how == "reset":
            reset(self._client)
            reset(self._server)
        elif how == "silence":
            wait_for_leave(self._client, self._proxy.ended)
            self._client.close()
            wait_for_leave(self._server, self._proxy.ended)  # nobody tells it that the client has gone
        elif how == "stall":
            while not self._proxy.ended.is_set() and self._from_client.read1(65536):
                pass
        return False

    def _answer(self, fault: Answer) -> bool:
        lines = [f"HTTP/1.1 {fault.status} As planned", f"Content-Length: {len(fault.body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in fault.headers]
        self._client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + fault.body)
        self._client.settimeout(0.05)
        deadline = time.monotonic() + fault.linger
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if not self._client.recv(1000):
                    break
        return False

    def _whole_answer(self) -> bytes:
        head = read_head(self._from_server)
        length = int(fields(head.decode("latin-1").split("\r\n")).get("content-length", 0))
        return head + self._from_server.read(length)

    def _answer_back(self, fault: Fault | None) -> bool:
        answer = self._whole_answer()
        if not answer or isinstance(fault, Swallow):
            return False
        where = fault.where if isinstance(fault, Break) else ""
        if where == "answer":
            assert isinstance(fault, Break)
            self._client.sendall(answer[: fault.after or len(answer) - 5])
        if where in ("work", "answer"):
            assert isinstance(fault, Break)
            return self._break(fault.how)
        if isinstance(fault, Rewrite):
            answer = fault.change(answer)
        if isinstance(fault, Trickle):
            return self._trickle(fault, answer)
        self._client.sendall(answer)
        if where == "idle":
            assert isinstance(fault, Break)
            return self._break(fault.how)
        return b"connection: close" not in answer.partition(b"\r\n\r\n")[0].lower()

    def _trickle(self, fault: Trickle, answer: bytes) -> bool:
        for place in range(len(answer)):
            if self._proxy.ended.wait(fault.seconds):
                return False
            self._client.sendall(answer[place : place + 1])
        return True


def _where(fault: Cut | Stall | Break) -> str:
    return fault.where if isinstance(fault, Break) else "body"


def fields(lines: list[str]) -> dict[str, str]:
    """Header lines as names (lower case) and values."""
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read_head(stream: BinaryIO) -> bytes:
    """A request's or an answer's head with the empty line at its end; empty where the stream has ended."""
    lines = []
    while line := stream.readline(65536):
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""
