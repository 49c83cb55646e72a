"""Connections that can be watched and cut from outside: the low-speed abort, the stop in the middle of a chunk.

Rules:
- `sendall` bounds a whole call by the timeout, so a megabyte on a slow link would fail: bytes are sent piece by piece.
- A socket's timeout does not see a trickle, nor what still lies in the kernel's buffer. The watchdog therefore asks the
  kernel what the peer has acknowledged and what has come in; where that stands still, the socket is shut down.
- A server may answer before the body is sent. As soon as an answer is there (or the peer has closed), sending ends, the
  answer is read, and the connection is not used again.
- A kept connection may be dead without a word (the machine slept, a NAT forgot it), and its neighbours with it: none is
  used again that stood idle for long, or since before another was found dead. Each would cost half a minute.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from chunkyd.clock import Clock
from chunkyd.protocol.messages import STALL_SECONDS
from chunkyd.threads import begin
from chunkyd.upload.responses import LastResponse, Response

CONNECT_SECONDS = 10.0
_LEAST_BYTES = 512  # fewer than these in STALL_SECONDS is standing still: a peer must not hold us by single bytes
_LOOK_SECONDS = 1.0
_RETIRE_SECONDS = 60.0  # a thread costs nothing to keep for a minute, and less to start than a request
_IDLE_SECONDS = 20.0  # servers and proxies close a connection that is idle for longer, NATs forget it
_BACKSTOP_SECONDS = STALL_SECONDS + 5  # should the watchdog fail
_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # tcpi_bytes_acked, tcpi_bytes_received in the kernel's tcp_info
_current = threading.local()


class Switch:
    """Cuts every connection that works for one upload; once pulled it stays pulled."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self.pulled = False

    def pull(self) -> None:
        """Cut them all now, and those to come."""
        with self._guard:
            self.pulled = True
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.cut()

    def _join(self, exchange: Exchange) -> None:
        with self._guard:
            self._exchanges.add(exchange)

    def _leave(self, exchange: Exchange) -> None:
        with self._guard:
            self._exchanges.discard(exchange)


class Exchange:
    """One request and its answer, from the first connect to the last byte."""

    def __init__(self, switch: Switch, trusted_since: float = 0.0) -> None:
        self.switch = switch
        self.trusted_since = trusted_since  # connections last used before this are not used again
        self.stalled = False
        self.answered_early = False
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._own: socket.socket | None = None
        self._anchor: tuple[float, int] | None = None
        self._excused = 0.0

    def attach(self, connected: socket.socket) -> None:
        """The connection that serves this request is open."""
        with self._guard:
            self._let_go()
            self._socket, self._anchor = connected, None
        if self.switch.pulled:
            self.cut()

    def attach_bare(self, connected: socket.socket) -> None:
        """It is being opened still: TLS and proxies have much to say first, and take the socket away for it."""
        own = connected.dup()
        self.attach(own)
        with self._guard:
            self._own = own

    def detach(self) -> None:
        """The answer is read."""
        with self._guard:
            self._let_go()

    def _let_go(self) -> None:
        self._socket = None
        if self._own is not None:
            self._own.close()
            self._own = None

    def cut(self) -> None:
        """Shut the socket down, so that whoever reads or writes it comes back at once."""
        with self._guard:
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the base class: SSLSocket.shutdown would drop its TLS state
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def excuse(self, now: float) -> None:
        """The sender waits for the bandwidth limit: that is not the peer's fault."""
        self._excused = now

    def look(self, now: float) -> None:
        """Cut the connection where too little moved for too long."""
        with self._guard:
            moved = _moved(self._socket) if self._socket is not None else None
        if moved is None:
            return
        if self._anchor is None or moved >= self._anchor[1] + _LEAST_BYTES or self._excused > self._anchor[0]:
            self._anchor = (now, moved)
        elif now - self._anchor[0] >= STALL_SECONDS:
            self.stalled = True
            self.cut()


def _moved(connected: socket.socket) -> int | None:
    """Bytes the peer has acknowledged plus bytes that have come in; None where the kernel cannot say."""
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AND_RECEIVED.size)
        acknowledged, received = _ACKED_AND_RECEIVED.unpack(info)
    except (OSError, struct.error):
        return None
    return int(acknowledged + received)


class Watchdog:
    """One thread that looks at every exchange once a second, sleeps while there is none, and ends when none comes.

    A client that nobody has any more (its token was replaced) leaves nothing behind that way.
    """

    def __init__(self, clock: Clock, retire: float = _RETIRE_SECONDS) -> None:
        self._clock = clock
        self._retire = retire
        self._changed = threading.Condition()
        self._exchanges: set[Exchange] = set()
        self._trusted_since = 0.0
        self._thread: threading.Thread | None = None
        self._idle = (
            False  # the thread waits for an exchange; else it comes by itself, and waking it costs every request
        )
        self._closed = False

    @contextlib.contextmanager
    def watch(self, switch: Switch) -> Iterator[Exchange]:
        """An exchange for the request this thread makes inside the block."""
        exchange = Exchange(switch, self._trusted_since)
        with self._changed:
            if self._thread is None:
                self._thread = begin(self._run, "chunky-watchdog")
        switch._join(exchange)
        with self._changed:
            self._exchanges.add(exchange)
            if self._idle:
                self._changed.notify()
        _current.exchange = exchange
        try:
            yield exchange
        finally:
            _current.exchange = None
            exchange.detach()
            with self._changed:
                self._exchanges.discard(exchange)
            switch._leave(exchange)

    def distrust(self) -> None:
        """A connection was found dead, or not to be what it should: those that are idle now may be like it."""
        self._trusted_since = _awake_or_asleep()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                while not self._exchanges and not self._closed:
                    if not self._changed.wait(self._retire) and not self._exchanges:
                        self._thread = None  # the next exchange starts another
                        return
                self._idle = False
                if self._closed:
                    return
                self._changed.wait(_LOOK_SECONDS)
                exchanges = list(self._exchanges)
            for exchange in exchanges:
                exchange.look(self._clock.monotonic())


def _awake_or_asleep() -> float:
    """Seconds that go on while the machine sleeps: that is when connections die."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Watched:
    """What both kinds of connection do differently."""

    sock: Any
    auto_open: Any
    response_class: Any
    last_used = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again; urllib3 opens another where not."""
        exchange = getattr(_current, "exchange", None)
        oldest = max(exchange.trusted_since if exchange is not None else 0.0, _awake_or_asleep() - _IDLE_SECONDS)
        return self.last_used > oldest and bool(super().is_connected)  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        exchange = getattr(_current, "exchange", None)
        if exchange is not None:
            exchange.attach_bare(connected)
        return connected

    def getresponse(self) -> Any:
        """The answer; from here on the connection is idle."""
        answer = super().getresponse()  # type: ignore[misc]
        self.last_used = _awake_or_asleep()
        return answer

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _attach(self.sock)

    def request(self, *arguments: Any, **options: Any) -> None:
        self.response_class = Response
        if self.sock is not None:
            _attach(self.sock)
        super().request(*arguments, **options)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send bytes; BrokenPipeError where an answer is there already, which makes the caller read it."""
        if self.sock is None and self.auto_open:
            self.connect()
        self.sock.settimeout(_BACKSTOP_SECONDS)
        rest = memoryview(data)
        try:
            while rest:
                if not isinstance(self.sock, ssl.SSLSocket) and _readable(self.sock):
                    raise BrokenPipeError  # not asked under TLS: a session ticket makes a socket readable too
                rest = rest[self.sock.send(rest) :]
        except OSError:
            self.response_class = LastResponse
            exchange = getattr(_current, "exchange", None)
            if exchange is not None:
                exchange.answered_early = True
            raise


def _attach(connected: Any) -> None:
    exchange = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.attach(connected)


def _readable(connected: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


class _Connection(_Watched, HTTPConnection):
    pass


class _SecureConnection(_Watched, HTTPSConnection):
    pass


class _Lending:
    """A pool whose connections belong to no exchange while they lie in it."""

    def _put_conn(self, connection: Any) -> None:
        """Take one back; it is the next one's before this thread has ended its own exchange.

        An upload that is over cuts what works for it: without this, now and then, another upload's connection.
        """
        exchange = getattr(_current, "exchange", None)
        if exchange is not None:
            exchange.detach()
        super()._put_conn(connection)  # type: ignore[misc]


class _Pool(_Lending, HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(_Lending, HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOL_CLASSES = {"http": _Pool, "https": _SecurePool}
