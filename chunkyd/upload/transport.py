"""The client's requests. The only importer of `requests`; foreign exceptions are translated here and nowhere else.

Rules: redirects are never followed; the token goes into its header and into no text; over plain HTTP it leaves this
machine only where that was allowed; proxies count only where one was configured; every answer is bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import secrets
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from chunkyd import __version__
from chunkyd.clock import Clock, SystemClock
from chunkyd.errors import ConfigError, Interrupted, NetworkError, NotChunky, Problem
from chunkyd.protocol import batch, late_hash, messages
from chunkyd.protocol.batch import Outcome
from chunkyd.protocol.digests import CRC32C, content_digest, format_content_digest
from chunkyd.protocol.messages import ChunkReply, EndReply, LimitsReply, SessionReply, StatusReply
from chunkyd.protocol.ranges import Range
from chunkyd.upload.answers import Answer, checked_status, decoded, failure, missing_of, outcomes, printable
from chunkyd.upload.body import Body
from chunkyd.upload.connection import CONNECT_SECONDS, POOL_CLASSES, Switch, Watchdog
from chunkyd.upload.reasons import mend, reason
from chunkyd.upload.source import READ_BYTES

_MOST_ANSWER_BYTES = 8 * 1024 * 1024  # a status with 100,000 ranges has half of that
_CONNECTIONS = 64
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
_READ_TIMEOUT = messages.STALL_SECONDS + 5  # the watchdog comes first


def fresh_key() -> str:
    """An Idempotency-Key nobody else has."""
    return secrets.token_hex(16)


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
        self._guard = threading.Lock()
        self._ending: set[str] = set()
        self._extensions: frozenset[str] = frozenset()

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

    def declare(self, session_id: str, version: str, file_hash: str, switch: Switch | None = None) -> messages.Status:
        """Declare the hash of a session that began with a name for the version; when this returns it is recorded."""
        body = late_hash.encode_declaration(late_hash.Declaration(file_hash))
        headers = _keys(session_id, version) | {
            "Content-Type": "application/json",
            "Content-Digest": format_content_digest({CRC32C: content_digest(body)}),
        }
        answer = self._exchange("POST", late_hash.PATH_DECLARE, headers, body, switch)
        return decoded(answer, 200, ChunkReply).status

    def batch(self, body: Body, digest: bytes, files: int, switch: Switch | None = None) -> list[Outcome]:
        """Send many small files, as `protocol.batch` frames them; an outcome for each of those `files`, in order."""
        headers = {
            "Content-Type": batch.CONTENT_TYPE,
            messages.HEADER_IDEMPOTENCY_KEY: fresh_key(),
            "Content-Digest": format_content_digest({CRC32C: digest}),
        }
        return outcomes(self._exchange("POST", batch.PATH_BATCH, headers, body, switch), files)

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

    @contextlib.contextmanager
    def ending(self, session_id: str) -> Iterator[bool]:
        """Whether the caller is the one to end this session: uploads side by side do not do it for one another."""
        with self._guard:
            mine = session_id not in self._ending
            self._ending.add(session_id)
        try:
            yield mine
        finally:
            if mine:
                with self._guard:
                    self._ending.discard(session_id)

    def limits(self, switch: Switch | None = None) -> LimitsReply:
        """What this server takes."""
        return decoded(self._exchange("OPTIONS", messages.PATH_CHUNK, {}, None, switch), 200, LimitsReply)

    def offers(self, extension: str, switch: Switch | None = None) -> bool:
        """Whether the server names this extension; one that does not, or does not answer, is asked again each time."""
        if extension not in self._extensions:
            try:
                self._extensions = frozenset(self.limits(switch).extensions)
            except (Problem, NetworkError, NotChunky):
                return False
        return extension in self._extensions

    def forget_extensions(self) -> None:
        """The server does not do what it offered: it is another one by now, or was set back."""
        self._extensions = frozenset()

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
            named = {messages.HEADER_REQUEST_ID: secrets.token_hex(8)}
            request = _prepared(method, self.url + path, self._headers | headers | named, body)
            try:
                answer = self._answer(request)
            except (NetworkError, *_FOREIGN) as error:
                self._watchdog.distrust()
                if switch.pulled:
                    raise Interrupted("stopped on request") from None
                if isinstance(error, NetworkError) and not exchange.stalled:
                    raise
                raise self._network_error(error, stalled=exchange.stalled) from error
            if exchange.stalled:  # what a cut leaves behind may look like an answer
                raise self._network_error(None, stalled=True)
            return answer

    def _answer(self, request: requests.PreparedRequest) -> Answer:
        response = self._adapter.send(
            request, stream=True, timeout=(CONNECT_SECONDS, _READ_TIMEOUT), verify=self._verify, proxies=self._proxies
        )
        try:
            body = response.raw.read(_MOST_ANSWER_BYTES + 1, decode_content=True)
            if len(body) > _MOST_ANSWER_BYTES:
                raise NetworkError(f"the answer of {self.url} is larger than this protocol has any")
            headers = {name.lower(): value for name, value in response.headers.items()}
            if not headers.keys() & {"content-length", "transfer-encoding"}:
                raise NetworkError(f"the answer of {self.url} has no length: it may have been cut")
            ours = request.headers[messages.HEADER_REQUEST_ID]
            if headers.get(messages.HEADER_REQUEST_ID.lower(), ours) != ours:  # never take another's success for ours
                raise NetworkError(f"the answer of {self.url} belongs to another request")
            return Answer(self.url, response.status_code, headers, body, self._clock.wall())
        finally:
            response.close()

    def _network_error(self, error: BaseException | None, *, stalled: bool) -> NetworkError:
        if stalled or error is None:
            return NetworkError(f"nothing moved on the connection to {self.url} for {messages.STALL_SECONDS:g} s")
        return NetworkError(f"no answer from {self.url}: {reason(error)}", mend=mend(error))


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
    return _with_ascii_host(url)


def _with_ascii_host(url: str) -> str:
    """The URL as it can be asked for: a host name that is not ASCII as IDNA writes it. ConfigError where it is none."""
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(url, None)
        (urlsplit(prepared.url or url).hostname or "").encode("idna")  # what the name's resolver is asked for
    except (requests.RequestException, ValueError) as error:
        raise ConfigError(f"{printable(url)} is not a URL of a server", mend="Check the host's name.") from error
    return url if url.isascii() else str(prepared.url)


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
