"""The whole server but its sockets, in this process, over a real folder; and a client that needs no network.

A fault is met by the nth request of an upload. A crash of the server drops every object of it: what had begun in its
threads ends (it may be in a real crash, too), nothing is closed in order, and all is opened again from the folder.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from chunkyd.clock import ManualClock
from chunkyd.errors import NetworkError
from chunkyd.server.app import Application
from chunkyd.server.auth import Authority
from chunkyd.server.stores import open_stores
from chunkyd.server.threads import Threads
from chunkyd.server.uploads import Uploads
from chunkyd.settings import Limits, ServerSettings
from chunkyd.upload.answers import Answer
from chunkyd.upload.transport import Client
from tests.server.bench import Came

URL = "http://127.0.0.1:1"
TTL = 1000.0
_SECONDS = 30.0  # no request of a test takes as long


class InProcessServer:
    """One data folder, and what serves it now."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.folder = folder
        self._clock = clock
        self._limits = Limits(session_ttl=TTL, reserve=0)
        self._guard = threading.Lock()
        self.starts = 0
        self._open()

    def _open(self) -> None:
        self.starts += 1
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stores = contextlib.ExitStack()
        storage, catalog = self._stores.enter_context(open_stores(str(self.folder)))
        self.catalog = catalog
        self._threads = Threads()
        self._uploads = Uploads(storage, catalog, self._limits, self._clock, self._threads, keep_old=True)
        authority = Authority(catalog, self._threads, self._clock, open_mode=True)
        settings = ServerSettings(data_dir=str(self.folder), auth="open", limits=self._limits, existing="keep")
        self._app = Application(settings, self._uploads, authority)
        self._uploads.load()
        self._wait(self._begin())

    async def _begin(self) -> None:
        self._uploads.resume()
        await self._uploads.rebuild()

    def _wait(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)  # type: ignore[arg-type]

    def crash(self) -> None:
        """Die, and begin again."""
        with self._guard:
            self.close()
            self._open()

    def close(self) -> None:
        """Drop everything."""
        self._wait(_cancel_all())
        self._threads.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()
        self._stores.close()

    def tick(self) -> None:
        """The janitor's round."""
        self._wait(self._uploads.tick())

    def answer(self, request: requests.PreparedRequest, body: bytes | None) -> Answer:
        """The application's answer; `body` None: it is cut in the middle. NetworkError: the server died over it."""
        with self._guard:
            loop, app = self._loop, self._app
            future = asyncio.run_coroutine_threadsafe(_ask(app, request, body), loop)
        try:
            status, headers, content = future.result(_SECONDS)
        except (asyncio.CancelledError, concurrent.futures.CancelledError, KeyError) as error:
            raise NetworkError("the server died") from error
        return Answer(URL, status, headers, content, self._clock.wall())


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_SECONDS) if tasks else None


async def _ask(
    app: Application, request: requests.PreparedRequest, body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    headers = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    path = urlsplit(str(request.url)).path
    scope = {
        "type": "http",
        "method": request.method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "client": ("127.0.0.1", 1),
    }
    answered: dict[str, object] = {}
    content = bytearray()

    async def send(message: dict[str, object]) -> None:
        answered.update(message)
        content.extend(message.get("body", b""))  # type: ignore[call-overload]

    length = int(request.headers.get("Content-Length", 0))
    await app(scope, Came(b"a beginning" if body is None else body, length), send)  # type: ignore[arg-type]
    found = {name.decode(): value.decode() for name, value in answered["headers"]}  # type: ignore[attr-defined]
    return int(answered["status"]), found, bytes(content)  # type: ignore[call-overload]


class InProcessClient(Client):
    """Reaches the server by a call; every request takes the next of its fates, and where none is left all goes well."""

    def __init__(self, server: InProcessServer, clock: ManualClock) -> None:
        super().__init__(URL, clock=clock)
        self._server = server
        self._fates: Iterator[str] = iter(())
        self._choosing = threading.Lock()
        self.stop = threading.Event()  # for the upload: its client dies
        self.met: list[str] = []

    def meet(self, fates: list[str]) -> None:
        """What the next requests will meet."""
        self._fates = iter(fates)
        self.stop = threading.Event()

    def _answer(self, request: requests.PreparedRequest) -> Answer:
        with self._choosing:
            fate = next(self._fates, "well")
        self.met.append(fate)
        body = (
            b"".join(request.body) if request.body is not None and not isinstance(request.body, bytes) else request.body
        )
        whole: bytes = body or b""  # type: ignore[assignment]
        match fate:
            case "lost":
                raise NetworkError("lost on the way")
            case "cut":
                self._server.answer(request, None if whole else b"")
                raise NetworkError("cut")
            case "crash before":
                self._server.crash()
                raise NetworkError("crashed")
            case "twice":
                self._server.answer(request, whole)
        answer = self._server.answer(request, whole)
        match fate:
            case "answer lost":
                raise NetworkError("the answer is lost")
            case "crash after":
                self._server.crash()
                raise NetworkError("crashed")
            case "client dies":
                self.stop.set()
                raise NetworkError("nobody is there to hear it")
        return answer
