"""The control server: the app on a Unix socket. The one door to cheroot.

- One request a connection: what follows a refused body is never read as a request, and reconnecting costs nothing.
- A fixed number of threads, a bounded queue behind them, fewer event streams than threads: listeners cannot use up
  all that answers questions.
- A peer has so many seconds to send its request and to take the answer, however slowly it drips: then it is cut off.
- All threads are daemon threads: nothing here can keep the process from ending.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from cheroot import server as cheroot_server
from cheroot import wsgi

from chunkyd.clock import Clock, SystemClock
from chunkyd.control.access import may_control
from chunkyd.control.app import ControlApp
from chunkyd.control.base import Backend
from chunkyd.control.listener import Listener
from chunkyd.control.stream import StreamSlots
from chunkyd.errors import EnvironmentFailure
from chunkyd.threads import begin, none_left_is_told

_log = logging.getLogger("chunkyd.control")

_THREADS = 10
_STREAMS = 5
_QUEUED = 64
_LARGEST_HEAD = 16384
_REQUEST_SECONDS = 10.0  # for a whole request to come in
_STEP_SECONDS = 5  # for the next byte of it
_ROUND_SECONDS = 1.0
_LAST_SECONDS = 1  # what is under way when the daemon stops
_STOP_SECONDS = 5.0


class _Deadlines:
    """The connections being served, and until when each peer may take its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._until: dict[_Connection, float | None] = {}
        self._stopping = False

    @contextlib.contextmanager
    def watching(self, connection: _Connection) -> Iterator[None]:
        """While a request is served."""
        self.allow(connection, _REQUEST_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                self._until.pop(connection, None)
                self._changed.notify()

    def allow(self, connection: _Connection, seconds: float | None) -> None:
        """From now on; None: without end."""
        with self._changed:
            self._until[connection] = None if seconds is None else self._clock.monotonic() + seconds
            self._changed.notify()

    def run(self) -> None:
        """Cut off whoever takes too long; once stopping, everybody after the last seconds."""
        with self._changed:
            while not self._stopping:
                self._changed.wait(_ROUND_SECONDS if self._until else None)
                self._cut_off(everybody=False)
            self._changed.wait_for(lambda: not self._until, _LAST_SECONDS)
            self._cut_off(everybody=True)

    def _cut_off(self, *, everybody: bool) -> None:
        now = self._clock.monotonic()
        for connection, until in self._until.items():
            if everybody or (until is not None and until < now):
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Let `run` come to its end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()


class _Connection(cheroot_server.HTTPConnection):
    """A connection whose time is measured."""

    def communicate(self) -> Any:
        """One request."""
        with self.server.deadlines.watching(self):
            return super().communicate()  # type: ignore[no-untyped-call]


class _Gateway(wsgi.Gateway_10):
    """Adds what the app needs to know of the connection."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        """WSGI's environment, the peer's uid, and how to give the peer time."""
        connection = self.req.conn
        deadlines: _Deadlines = self.req.server.deadlines
        return {
            **super().get_environ(),  # type: ignore[no-untyped-call]
            "chunkyd.peer": connection.peer_uid,
            "chunkyd.allow": lambda seconds: deadlines.allow(connection, seconds),
        }


class _Server(wsgi.Server):
    """cheroot on a socket that is bound already, with its messages in our log."""

    ConnectionClass = _Connection
    keep_alive_conn_limit = 0
    expiration_interval = 86_400.0  # with no connection kept nothing expires, and `stop` waits for no tick
    max_request_header_size = _LARGEST_HEAD

    def __init__(self, listener: Listener, app: ControlApp, clock: Clock) -> None:
        super().__init__(
            listener.path,
            app,
            numthreads=_THREADS,
            max=_THREADS,
            request_queue_size=_QUEUED,
            timeout=_STEP_SECONDS,
            shutdown_timeout=_LAST_SECONDS,
            accepted_queue_size=_QUEUED,
            accepted_queue_timeout=1,
            peercreds_enabled=True,
            server_name="chunkyd",
        )
        self.gateway = _Gateway
        self.deadlines = _Deadlines(clock)
        self._bound = listener.socket

    def bind_unix_socket(self, bind_addr: str) -> None:
        """Take the listener's: cheroot's own would be open to all for a moment."""
        self.socket = self._bound

    def stop(self) -> None:
        """Wakes the thread that waits for connections, which would sleep on: it finds that there is none to accept."""
        with contextlib.suppress(OSError):  # stopped before
            self._bound.setblocking(False)
            self._bound.shutdown(socket.SHUT_RDWR)
        super().stop()

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Peers that break off are no news."""
        _log.log(level if level >= logging.ERROR else logging.DEBUG, "%s", msg, exc_info=traceback)


class ControlServer:
    """The socket from `start` to `stop`, each called once. The backend's `events` must still answer during `stop`."""

    def __init__(self, path: str, group: str | None, backend: Backend, clock: Clock | None = None) -> None:
        self._path = path
        self._group = group
        self._backend = backend
        self._clock = clock or SystemClock()
        self._slots = StreamSlots(_STREAMS)
        self._server: _Server | None = None
        self._listener: Listener | None = None

    def start(self) -> None:
        """Make the socket and answer on it; AlreadyRunning, ConfigError or StateError where it cannot be made."""
        self._listener = listener = Listener(self._path, self._group)
        own_uid = os.geteuid()
        app = ControlApp(self._backend, lambda peer: may_control(peer, own_uid, listener.group), self._slots)
        self._server = server = _Server(listener, app, self._clock)
        os.environ.pop("LISTEN_PID", None)  # cheroot would take another's descriptor 3 for its socket
        ready = threading.Event()
        # The threads made by `prepare` are daemon threads because the one that makes them is.
        for name, work in (("control", lambda: _serve(server, ready)), ("control-deadlines", server.deadlines.run)):
            threading.Thread(target=work, name=name, daemon=True).start()
        ready.wait()
        if not server.ready:
            listener.remove()
            raise EnvironmentFailure(f"the control socket {self._path} cannot be served", mend="See the log")

    def stop(self) -> None:
        """No new requests; those under way have a second, then all is closed and the file is gone."""
        if self._server is None or self._listener is None:
            return
        self._listener.remove()
        self._slots.closed.set()
        self._server.deadlines.stop()
        try:
            stopping = begin(self._server.stop, "control-stop")
        except EnvironmentFailure as error:
            _log.warning("the control socket is not closed in order: %s", error)
            return
        stopping.join(_STOP_SECONDS)
        if stopping.is_alive():
            _log.warning("a request on the control socket does not end; going on without it")


def _serve(server: _Server, ready: threading.Event) -> None:
    try:
        with none_left_is_told():
            try:
                server.prepare()
            finally:
                ready.set()
            server.serve()
    except EnvironmentFailure as error:
        _log.error("the control socket: %s", error)
