"""A relay before a server that measures: bytes to the server over all connections, and when the first body begins."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

PIECE = 1 << 18


class Gauge:
    """Forwards every connection to a port on loopback. `port` 0 takes any.

    `passed`: bytes to the server so far. `first_body`: the monotonic moment of the first byte of a chunk's content;
    with `cut` the connections end right there, and the server sees no byte of it.
    """

    def __init__(self, target: int, port: int = 0, *, cut: bool = False) -> None:
        self._target = target
        self._cut = cut
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.passed = 0
        self.open = 0
        self.first_body: float | None = None

    def __enter__(self) -> Gauge:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answers, args=(server, client), daemon=True).start()
            with self._guard:
                self.open += 1
            try:
                self._requests(client, server)
            finally:
                for each in (client, server):  # a socket another thread waits at is not ended by closing it
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                with self._guard:
                    self.open -= 1

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        head = bytearray()  # what this connection brought before its first chunk's content
        while piece := client.recv(PIECE):
            now = time.monotonic()
            with self._guard:
                self.passed += len(piece)
            if self.first_body is None:
                head += piece
                if self._body_begun(head):
                    self.first_body = now
            if self._cut and self.first_body is not None:
                return
            server.sendall(piece)

    @staticmethod
    def _body_begun(head: bytearray) -> bool:
        request = head.find(b"PATCH /uploadChunk")
        end = head.find(b"\r\n\r\n", request) if request >= 0 else -1
        return end >= 0 and len(head) > end + 4


def _answers(server: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := server.recv(PIECE):
            client.sendall(piece)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
