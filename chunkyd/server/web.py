"""The connections of a listener: HTTP/1.1, over asyncio.

Beyond so many of them none is accepted: the others wait in the listener's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl

from chunkyd.server.connection import Application, Connection

HANDSHAKE_SECONDS = 30.0
_ACCEPT_AT_ONCE = 64
_LACK_SECONDS = 1.0  # until the next try, where the system had no room for a connection
_ITS_OWN = frozenset(  # errors of one connection, which ended before it was accepted (accept(2))
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)

log = logging.getLogger("chunkyd.server")


class Web:
    """The connections of one listener, `most` of them at a time; belongs to the event loop that runs.

    `unread`: bytes, of a body that its request did not read, that are read and thrown away.
    """

    def __init__(
        self, app: Application, listener: socket.socket, most: int, unread: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self.app = app
        self.unread = unread
        self.tls = tls
        self._listener = listener
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._accepting = False
        self._again: asyncio.TimerHandle | None = None  # when the system had no room for a connection
        self._stopped = False

    def start(self) -> None:
        """Take connections, where there is room for one more."""
        if not (self._accepting or self._stopped or self._again or self._is_full()):
            self._loop.add_reader(self._listener, self._accept)
            self._accepting = True

    async def stop(self, seconds: float) -> None:
        """Take no more, and end those there are; within so many seconds those, too, that are at an answer."""
        self._stopped = True
        self._pause()
        if self._again is not None:
            self._again.cancel()
        for task in self._beginning:
            task.cancel()
        for connection in list(self._open):
            connection.stop()
        deadline = self._loop.time() + seconds
        while self._open and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self._open):
            connection.close()

    def _is_full(self) -> bool:
        return len(self._open) + len(self._beginning) >= self._most

    def _pause(self) -> None:
        if self._accepting:
            self._loop.remove_reader(self._listener)
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if self._is_full():
                self._pause()
                return
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _ITS_OWN:
                    continue
                log.error("no connection can be accepted, trying again: %s", error)
                self._pause()
                self._again = self._loop.call_later(_LACK_SECONDS, self._try_again)
                return
            task = self._loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _try_again(self) -> None:
        self._again = None
        self.start()

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(
                lambda: Connection(self),
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self.tls is not None else None,
            )
        except OSError as error:  # a handshake that failed, or took too long; or a client that has gone
            accepted.close()
            log.debug("a connection did not begin: %s", error)
        except BaseException:
            accepted.close()
            raise

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self.start()

    def entered(self, connection: Connection) -> None:
        """See `Place`."""
        self._open.add(connection)

    def left(self, connection: Connection) -> None:
        """See `Place`."""
        self._open.discard(connection)
        self.start()
