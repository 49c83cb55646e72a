"""The client's requests. The only importer of `requests`; foreign exceptions are translated here and nowhere else.

Rules: redirects are never followed; the token goes into its header and into no text; over plain HTTP it leaves this
machine only where that was allowed; proxies count only where one was configured; every answer is bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from chunkyd import __version__
from chunkyd.clock import Clock, SystemClock
from chunkyd.errors import ConfigError, Interrupted, NetworkError, Problem
from chunkyd.protocol import messages
from chunkyd.protocol.digests import CRC32C, content_digest, format_content_digest
from chunkyd.protocol.messages import ChunkReply, EndReply, LimitsReply, SessionReply, StatusReply
from chunkyd.protocol.ranges import Range
from chunkyd.upload.answers import Answer, checked_status, decoded, failure, missing_of, printable
from chunkyd.upload.connection import CONNECT_SECONDS, POOL_CLASSES, Exchange, Switch, Watchdog
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.source import READ_BYTES, Source

_MOST_ANSWER_BYTES = 8 * 1024 * 1024  # a status with 100,000 ranges has half of that
_CONNECTIONS = 64
_READ_TIMEOUT = messages.STALL_SECONDS + 5  # the watchdog comes first


class Opened(msgspec.Struct, frozen=True):
    """A session as the server opened it; `missing` is half-open."""

    session_id: str
    status: messages.Status
    missing: tuple[Range, ...]
    chunk_bytes: int
    max_chunk_bytes: int


class Standing(msgspec.Struct, frozen=True):
    """What the server has of a file; `missing` is half-open."""

    status: messages.Status
    missing: tuple[Range, ...]


class _Adapter(HTTPAdapter):
    """Connections that can be watched and cut, and that send a megabyte at a time."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=READ_BYTES, **options)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, blocksize=READ_BYTES, **options)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager


class Body:
    """A range of the source as a request's body: read piece by piece, paid for at the limiter, counted."""

    def __init__(
        self,
        source: Source,
        chunk: Range,
        limiter: Limiter | None,
        proceed: Callable[[], None],
        sent: Callable[[int], None],
    ) -> None:
        self._source = source
        self._start, self._stop = chunk
        self._position = self._start
        self._limiter = limiter
        self._proceed = proceed
        self._sent = sent
        self.exchange: Exchange | None = None

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(READ_BYTES):
            yield piece

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, counted from the beginning of the range."""
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._position, os.SEEK_END: self._stop}[whence]
        self._position = min(max(base + offset, self._start), self._stop)
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most a megabyte; SourceChanged where the file has become shorter."""
        self._proceed()
        left = self._stop - self._position
        size = min(left, READ_BYTES, size if size >= 0 else left)
        if size == 0:
            return b""
        if self._limiter is not None:
            size = self._limiter.take(size, self._wait)
        piece = self._source.read(self._position, size)
        self._position += len(piece)
        self._sent(len(piece))
        return piece

    def _wait(self) -> None:
        self._proceed()
        if self.exchange is not None:
            self.exchange.excuse(time.monotonic())


class Client:
    """One server, over kept-alive connections that any number of uploads share. Every method is thread-safe.

    Raises Problem, NotChunky, NetworkError; Interrupted where its switch was pulled. ConfigError: a URL or token that
    cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
        allow_plain: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.url = _checked_url(url, token, allow_plain).rstrip("/")
        self._headers = {"User-Agent": f"chunkyd/{__version__}", "Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self._clock = clock or SystemClock()
        self._verify: bool | str = ca_file or True
        if ca_file is not None and not os.path.exists(ca_file):
            raise ConfigError(f"the ca_file {ca_file} is not there")
        self._proxies = {"all": proxy} if proxy else {}
        self._adapter = _Adapter(pool_connections=4, pool_maxsize=_CONNECTIONS)
        self._watchdog = Watchdog(self._clock)

    def close(self) -> None:
        """Close the connections."""
        self._watchdog.close()
        self._adapter.close()

    def initiate(self, request: messages.Initiate, idempotency_key: str, switch: Switch | None = None) -> Opened:
        """Open a session."""
        body = messages.encode_initiate(request)
        headers = {
            "Content-Type": "application/json",
            messages.HEADER_IDEMPOTENCY_KEY: idempotency_key,
            "Content-Digest": format_content_digest({CRC32C: content_digest(body)}),
        }
        answer = self._exchange("POST", messages.PATH_INITIATE, headers, body, switch)
        reply = decoded(answer, 201, SessionReply)
        missing = missing_of(answer, reply, request.total_bytes)
        return Opened(reply.session_id, reply.status, missing, reply.chunk_bytes, reply.max_chunk_bytes)

    def chunk(
        self,
        session_id: str,
        file_hash: str,
        chunk: Range,
        total: int,
        digest: bytes,
        body: Body,
        switch: Switch | None = None,
    ) -> messages.Status:
        """Send a range; when this returns it is stored."""
        headers = _keys(session_id, file_hash) | {
            "Content-Type": "application/octet-stream",
            "Content-Range": messages.format_content_range(chunk, total),
            "Content-Digest": format_content_digest({CRC32C: digest}),
        }
        answer = self._exchange("PATCH", messages.PATH_CHUNK, headers, body, switch)
        return decoded(answer, 200, ChunkReply).status

    def status(self, session_id: str, file_hash: str, total: int, switch: Switch | None = None) -> Standing:
        """What the server has of a session's file."""
        answer = self._exchange("GET", messages.PATH_STATUS, _keys(session_id, file_hash), None, switch)
        reply = checked_status(answer, decoded(answer, 200, StatusReply), total)
        return Standing(reply.status, missing_of(answer, reply, total))

    def end(self, session_id: str, file_hash: str, switch: Switch | None = None) -> bool:
        """End a session: True where it was there, False where the server says that there is none."""
        answer = self._exchange("POST", messages.PATH_END, _keys(session_id, file_hash), b"", switch)
        try:
            decoded(answer, 200, EndReply)
        except Problem as found:
            if found.status != 404 and found.name != "session-expired":
                raise
            return False
        return True

    def limits(self) -> LimitsReply:
        """What this server takes."""
        return decoded(self._exchange("OPTIONS", messages.PATH_CHUNK, {}, None, None), 200, LimitsReply)

    def ready(self) -> None:
        """Return if the server can store; raise why not otherwise."""
        answer = self._exchange("GET", messages.PATH_READY, {}, None, None)
        if answer.status != 200:
            raise failure(answer)

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: Body | bytes | None, switch: Switch | None
    ) -> Answer:
        switch = switch or Switch()
        if switch.pulled:
            raise Interrupted("stopped on request")
        with self._watchdog.watch(switch) as exchange:
            if isinstance(body, Body):
                body.exchange = exchange
            request = _prepared(method, self.url + path, self._headers | headers, body)
            try:
                return self._answer(request)
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                http.client.HTTPException,
                OSError,
            ) as error:
                if switch.pulled:
                    raise Interrupted("stopped on request") from None
                raise self._network_error(error, stalled=exchange.stalled) from error

    def _answer(self, request: requests.PreparedRequest) -> Answer:
        response = self._adapter.send(
            request, stream=True, timeout=(CONNECT_SECONDS, _READ_TIMEOUT), verify=self._verify, proxies=self._proxies
        )
        try:
            body = response.raw.read(_MOST_ANSWER_BYTES + 1, decode_content=True)
            if len(body) > _MOST_ANSWER_BYTES:
                raise NetworkError(f"the answer of {self.url} is larger than this protocol has any")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(self.url, response.status_code, headers, body, self._clock.wall())
        finally:
            response.close()

    def _network_error(self, error: BaseException, *, stalled: bool) -> NetworkError:
        if stalled:
            return NetworkError(f"nothing moved on the connection to {self.url} for {messages.STALL_SECONDS:g} s")
        return NetworkError(f"no answer from {self.url}: {_reason(error)}", mend=_mend(error))


def _prepared(method: str, url: str, headers: dict[str, str], body: Body | bytes | None) -> requests.PreparedRequest:
    """A request without what a session would add: no cookies, no environment, no authentication of its own."""
    request = requests.PreparedRequest()
    request.method = method
    request.url = url
    request.headers = CaseInsensitiveDict(headers)
    request.body = body or None  # type: ignore[assignment]  # the stubs know no file-like body
    if body is not None:
        request.headers["Content-Length"] = str(len(body))
    return request


def _keys(session_id: str, file_hash: str) -> dict[str, str]:
    return {messages.HEADER_SESSION: session_id, messages.HEADER_FILE_HASH: file_hash}


def _checked_url(url: str, token: str | None, allow_plain: bool) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{printable(url)} is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{printable(url)} is not a URL of a server", mend="It begins with https:// or http://.")
    if "@" in parts.netloc:
        raise ConfigError("a URL must not hold a user name or a password", mend="Use a token file.")
    if parts.query or parts.fragment:
        raise ConfigError(f"{printable(url)} has a query or a fragment; a server's URL has none")
    if token is not None and parts.scheme == "http" and not allow_plain and not _is_loopback(parts):
        raise ConfigError(
            f"the token would go to {printable(parts.netloc)} unencrypted",
            mend="Use https, or allow it with allow_plain where the network is trusted.",
        )
    return url


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _checked_token(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("the token is empty or holds characters that no token has", mend="Check the token file.")
    return token


def _reason(error: BaseException) -> str:
    """The innermost cause in words of the system, because the libraries' texts repeat their objects' names."""
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason})"
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return "timed out"
        if isinstance(cause, OSError) and cause.strerror:
            return printable(cause.strerror)
        if isinstance(cause, http.client.HTTPException | urllib3.exceptions.IncompleteRead):
            return "the connection was closed in the middle of an answer"
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    rest = [error]
    while rest:
        current = rest.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        reasons = (getattr(current, "reason", None), *current.args, current.__cause__, current.__context__)
        rest.extend(reason for reason in reasons if isinstance(reason, BaseException))


def _mend(error: BaseException) -> str:
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return "Check the URL, this machine's clock, and ca_file."
    return ""
