"""Starting and stopping: the one place that knows uvloop, and where storage and catalog are chosen.

- One process, one event loop: sessions live in this process's memory.
- A stop: nothing new is begun, chunks on their way get time, then are refused; all over within 10 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable

import uvloop

from chunkyd import notify
from chunkyd.catalog.base import Catalog
from chunkyd.clock import SystemClock
from chunkyd.errors import AlreadyRunning, ConfigError, EnvironmentFailure
from chunkyd.open_files import allow_open_files
from chunkyd.server.app import Application
from chunkyd.server.auth import Authority
from chunkyd.server.janitor import keep_house
from chunkyd.server.stores import open_stores
from chunkyd.server.threads import Threads
from chunkyd.server.uploads import Uploads
from chunkyd.server.web import Web
from chunkyd.settings import ServerSettings
from chunkyd.storage.base import Storage

BACKLOG = 2048
CONNECTIONS = 4096
OWN_FILES = 128  # the catalog, a connection to it for each thread, folders, copies
LEAST_CONNECTIONS = 32
FINISH_SECONDS = 5.0  # for chunks on their way
REFUSE_SECONDS = 1.0  # for telling those that are still not through
LEAVE_SECONDS = 1.0  # for the last answers to go out
SPARE_BYTES = 1 << 20  # of a refused body, beyond the largest that is taken: read all the same, so that it ends well

log = logging.getLogger("chunkyd.server")


def serve(
    settings: ServerSettings,
    *,
    ready: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run a server until SIGTERM, SIGINT, or `stop` is set. `ready` gets the port once requests are taken."""
    connections = _connections()
    listener = _bind(settings.host, settings.port)
    with contextlib.closing(listener), open_stores(settings.data_dir) as (storage, catalog):
        uvloop.run(_Run(settings, storage, catalog, listener, connections, ready, stop).main())


class _Run:
    """One server from start to stop."""

    def __init__(
        self,
        settings: ServerSettings,
        storage: Storage,
        catalog: Catalog,
        listener: socket.socket,
        connections: int,
        ready: Callable[[int], None] | None,
        stop: threading.Event | None,
    ) -> None:
        clock = SystemClock()
        self._settings = settings
        self._listener = listener
        self._connections = connections
        self._ready = ready
        self._stop = stop
        self._threads = Threads()
        keep_old = settings.existing == "keep"
        self._uploads = Uploads(storage, catalog, settings.limits, clock, self._threads, keep_old=keep_old)
        authority = Authority(catalog, self._threads, clock, open_mode=settings.auth == "open")
        self._app = Application(settings, self._uploads, authority)

    async def main(self) -> None:
        """Take up what was left, serve, leave in order."""
        stopping = self._stop_event()
        try:
            await self._threads.record(self._uploads.load)
            self._uploads.resume()
            unread = self._settings.limits.chunk + SPARE_BYTES
            web = Web(self._app, self._listener, self._connections, unread, _tls(self._settings))
            web.start()
            keeping = asyncio.create_task(keep_house(self._uploads, self._settings.limits.session_ttl))
            guarding = asyncio.create_task(self._feed_watchdog())
            rebuilding = asyncio.create_task(self._uploads.rebuild())
            self._announce()
            waiting = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait({keeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            failed = waiting not in done
            for task in done - {waiting}:
                log.error("a part of the server that never ends has ended", exc_info=task.exception())
            await self._leave()
            keeping.cancel()
            guarding.cancel()
            rebuilding.cancel()
            await web.stop(LEAVE_SECONDS)
            if failed:
                raise EnvironmentFailure("The server stopped by itself", mend="Its log says why; start it again")
        finally:
            self._threads.close()

    def _announce(self) -> None:
        host, port = self._listener.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        if self._ready is not None:
            self._ready(port)
        notify.ready(f"listening on {where}:{port}")

    async def _feed_watchdog(self) -> None:
        """Alive is who turns the loop and gets an answer of a thread."""
        interval = notify.watchdog_interval()
        while interval is not None:
            await self._threads.record(notify.watchdog)
            await asyncio.sleep(interval)

    async def _leave(self) -> None:
        """Begin nothing new; let what runs end, or refuse it; publications always come to their end."""
        self._app.stopping = True
        log.info("stopping")
        notify.stopping()
        await self._until_idle(FINISH_SECONDS)
        self._uploads.stop_bodies()
        await self._until_idle(REFUSE_SECONDS)
        await self._uploads.close()

    async def _until_idle(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while self._app.requests and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    def _stop_event(self) -> asyncio.Event:
        """Set by a signal, where signals come to this thread, or by the caller's event."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopping.set)
        given = self._stop
        if given is not None:

            def watch() -> None:
                given.wait()
                with contextlib.suppress(RuntimeError):  # the loop has ended before
                    loop.call_soon_threadsafe(stopping.set)

            threading.Thread(target=watch, name="stop", daemon=True).start()
        return stopping


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A password is not asked for: nobody may be there.
        context.load_cert_chain(settings.tls.certificate, settings.tls.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate or its key cannot be used: {error}", mend="Check tls: in the config"
        ) from error
    return context


def _bind(host: str, port: int) -> socket.socket:
    """The listening socket, ours alone. Raises AlreadyRunning, ConfigError."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{where} is no address to listen on: {error.strerror}", mend="Check listen:") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            what = f"{where} is taken by another process"
            raise AlreadyRunning(what, mend="`ss -ltnp` shows which; stop it, or listen elsewhere") from error
        raise ConfigError(f"{where} cannot be listened on: {error.strerror}", mend="Check listen:") from error
    listener.setblocking(False)
    return listener


def _connections() -> int:
    """How many connections fit the files that may be open: each is one, and so is the session it writes to.

    All that the system lets us have is taken. Beyond it no connection could be accepted, nor anything stored.
    """
    enough, least = (OWN_FILES + 2 * connections for connections in (CONNECTIONS, LEAST_CONNECTIONS))
    return (allow_open_files(enough, least, "the server") - OWN_FILES) // 2
