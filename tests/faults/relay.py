"""Links between two ends that know nothing of HTTP: slow, delayed, cut at any byte; and proxies a client is told of."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

PIECE = 16 * 1024


class Relay:
    """Forwards every connection, byte by byte. `delay`: seconds each way; `rate`: bytes a second to the server;
    `cut`: of the nth connection, after how many bytes to the server both ends are reset (None: never).
    """

    def __init__(self, target: int, *, delay: float = 0.0, rate: float = 0.0, host: str = "127.0.0.1") -> None:
        self._target = target
        self.delay = delay
        self.rate = rate
        self.cut: Callable[[int], int | None] = lambda number: None
        self.up = 0
        self.connections = 0
        self.refusing = False
        self._sockets: set[socket.socket] = set()
        self._ended = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.sever()

    def sever(self) -> None:
        """Every connection there is now ends."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), client:
            target = None if self.refusing else self.greet(client)
            if target is None:
                return
            with socket.create_connection(("127.0.0.1", target)) as server:
                self._sockets |= {client, server}
                down = threading.Thread(target=self._pump, args=(server, client, None, 0.0), daemon=True)
                down.start()
                self._pump(client, server, self.cut(number), self.rate)
                down.join(60)
                self._sockets -= {client, server}

    def greet(self, client: socket.socket) -> int | None:
        """What comes before; the port to go to."""
        return self._target

    def _pump(self, source: socket.socket, sink: socket.socket, most: int | None, rate: float) -> None:
        """One direction: a piece goes on when its delay is over and the rate lets it."""
        passed, free_at = 0, 0.0
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE if most is None else min(PIECE, most - passed)):
                due = time.monotonic() + self.delay
                free_at = max(free_at, time.monotonic()) + (len(piece) / rate if rate else 0.0)
                self._ended.wait(max(0.0, max(due, free_at) - time.monotonic()))
                sink.sendall(piece)
                passed += len(piece)
                if rate:
                    self.up += len(piece)
                if most is not None and passed >= most:
                    break
        for each in (sink, source) if most is not None else (sink,):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_WR if each is sink and most is None else socket.SHUT_RDWR)


class ForwardProxy(Relay):
    """What `proxy:` names: CONNECT makes a tunnel; a request with a whole URL goes on (one for each connection)."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[str] = []
        self.refuse_with = b""

    def greet(self, client: socket.socket) -> int | None:
        """Read the head, go where it says."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(1) if not head.endswith(b"\r\n\r\n") else b""
            if not piece:
                return None
            head += piece
        method, url, _ = head.split(b"\r\n")[0].decode().split(" ")
        self.asked.append(f"{method} {url}")
        if self.refuse_with:
            client.sendall(self.refuse_with)
            return None
        port = int(url.removeprefix("http://").split("/")[0].rpartition(":")[2])
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return port
        self._forward(client, head, method, url, port)
        return None

    def _forward(self, client: socket.socket, head: bytes, method: str, url: str, port: int) -> None:
        path = "/" + url.removeprefix("http://").partition("/")[2]
        lines = [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith(b"connection")]
        first = f"{method} {path} HTTP/1.1".encode()
        with socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(b"\r\n".join([first, *lines, b"Connection: close", b"", b""]))
            up = threading.Thread(target=self._pump, args=(client, server, None, 0.0), daemon=True)
            up.start()
            while piece := server.recv(65536):
                client.sendall(piece)
