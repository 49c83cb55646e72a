"""The protocol's requests over HTTP, and nothing but HTTP: what they mean is `uploads`' business.

Checks come in the protocol's order; that is why a handler reads its headers one after the other and not at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Scope, Send

from chunkyd.checkpoints import reached
from chunkyd.errors import ChunkyError, Problem, StorageFull
from chunkyd.protocol import batch, late_hash, messages, problems
from chunkyd.protocol.digests import DIGESTS, format_content_digest
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import to_wire
from chunkyd.protocol.times import format_time
from chunkyd.server.auth import Authority, Proxies, check_open_request
from chunkyd.server.exchange import Exchange
from chunkyd.server.headers import Head, Refused, malformed
from chunkyd.server.ledger import storage_full
from chunkyd.server.opening import idempotency_digest
from chunkyd.server.receive import Body, BodyCut
from chunkyd.server.session import LiveSession
from chunkyd.server.uploads import Uploads, check_hash
from chunkyd.settings import ServerSettings

JSON_LIMIT = 64 << 10
ADVISED_CHUNK = 16 << 20
STOPPING_RETRY_SECONDS = 5.0
_EVERYTHING = "/*"  # where `OPTIONS *` is routed: a route must begin with a slash

Handler = Callable[[Exchange], Awaitable[Response]]

log = logging.getLogger("chunkyd.server")


class Application:
    """The application of one server: ASGI, but that a body is read by its `fill`."""

    def __init__(self, settings: ServerSettings, uploads: Uploads, authority: Authority) -> None:
        self._settings = settings
        self._uploads = uploads
        self._authority = authority
        self._proxies = Proxies(settings.trusted_proxies)
        self.stopping = False
        self.requests = 0  # being answered
        self._routes = Starlette(
            routes=[
                _route(messages.PATH_INITIATE, POST=self._initiate),
                _route(messages.PATH_CHUNK, PATCH=self._chunk, OPTIONS=self._limits),
                _route(_EVERYTHING, OPTIONS=self._limits),
                _route(batch.PATH_BATCH, POST=self._batch),
                _route(late_hash.PATH_DECLARE, POST=self._declare),
                _route(messages.PATH_STATUS, GET=self._status),
                _route(messages.PATH_END, POST=self._end),
                _route(messages.PATH_HEALTH, GET=self._health),
                _route(messages.PATH_READY, GET=self._ready),
            ],
            exception_handlers={HTTPException: _not_routed},
        )
        self._routes.router.redirect_slashes = False  # clients follow no redirect

    async def __call__(self, scope: Scope, body: Body, send: Send) -> None:
        """One request, from its head to its line in the log."""
        exchange = Exchange(scope, body, send)
        if scope["path"] == "*":
            scope = {**scope, "path": _EVERYTHING}
        self.requests += 1
        try:
            await self._answer(exchange, {**scope, "chunky.exchange": exchange})
            reached("server.request.answered")
        finally:
            self.requests -= 1
            exchange.log()

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        exchange.address = self._proxies.client(str(scope["client"][0]), exchange.head.every("x-forwarded-for"))
        refusal = self._refusal(exchange.head)
        if refusal is None:
            await self._routes(scope, _nothing, exchange.send)
        else:
            await refusal(scope, _nothing, exchange.send)

    def _refusal(self, head: Head) -> Response | None:
        """What is refused whatever is asked for."""
        if self._settings.auth == "open":
            try:
                check_open_request(head.optional("host"), head.optional("origin"), head.first("sec-fetch-site"))
            except Problem as error:
                return _refused(error)
        return None

    async def _user(self, exchange: Exchange) -> str:
        exchange.user = await self._authority.user(exchange.head.optional("authorization"), exchange.address)
        return exchange.user

    def _refuse_when_stopping(self) -> None:
        if self.stopping:
            text = "The server is stopping and begins nothing new; come back in a moment."
            raise problem("shutting-down", text, retry_after=STOPPING_RETRY_SECONDS)

    async def _initiate(self, exchange: Exchange) -> Response:
        self._refuse_when_stopping()
        user = await self._user(exchange)
        head = exchange.head
        head.check()
        head.require_type("application/json")
        key = head.optional(messages.HEADER_IDEMPOTENCY_KEY)
        body = await exchange.small_body(JSON_LIMIT)
        head.check_small_body(body)
        try:
            request = messages.decode_initiate(body)
        except ValueError as error:
            raise malformed(f"{error}.") from error
        # Without its order: a client that has lost its records with the power counts anew, and is to find its session.
        asked = messages.encode_initiate(replace(request, client=None, order=None))
        idempotency = idempotency_digest(user, key, asked) if key is not None else None
        session = await self._uploads.initiate(user, request, idempotency)
        exchange.session = session.session_id
        limits = self._settings.limits
        reply = messages.SessionReply(
            session_id=session.session_id,
            ttl_seconds=max(1, round(limits.session_ttl)),
            expires_at=_expires_at(session),
            chunk_bytes=min(ADVISED_CHUNK, limits.chunk),
            max_chunk_bytes=limits.chunk,
            status=session.status(),
            missing_ranges=to_wire(session.missing()),
        )
        reached("server.initiate.answering")
        return _json(reply, 201)

    async def _session(self, exchange: Exchange) -> LiveSession:
        """User, session and owner, expiry, file hash: the checks chunk and status have in common."""
        user = await self._user(exchange)
        exchange.session = exchange.head.one(messages.HEADER_SESSION)
        session = await self._uploads.find(user, exchange.session)
        check_hash(session, exchange.head.one(messages.HEADER_FILE_HASH))
        return session

    async def _chunk(self, exchange: Exchange) -> Response:
        self._refuse_when_stopping()
        exchange.range = (exchange.head.first("content-range") or "-").removeprefix("bytes ")[:64]
        session = await self._session(exchange)
        chunk = exchange.head.chunk()
        reply = messages.ChunkReply(await self._uploads.chunk(session, chunk, exchange.body))
        reached("server.chunk.answering")
        return _json(reply)

    async def _batch(self, exchange: Exchange) -> Response:
        self._refuse_when_stopping()
        user = await self._user(exchange)
        exchange.head.check()
        length = exchange.head.length()
        exchange.head.require_type(batch.CONTENT_TYPE)
        digests = exchange.head.digests()
        key = exchange.head.optional(messages.HEADER_IDEMPOTENCY_KEY)
        named = idempotency_digest(user, key, format_content_digest(digests).encode()) if key is not None else None
        outcomes = await self._uploads.batch(user, length, digests, exchange.body, named)
        exchange.range = f"{len(outcomes)} files"
        reached("server.batch.answering")
        return Response(b"".join(map(batch.encode_outcome, outcomes)), media_type=batch.ANSWER_TYPE)

    async def _declare(self, exchange: Exchange) -> Response:
        self._refuse_when_stopping()
        session = await self._session(exchange)
        head = exchange.head
        head.check()
        head.require_type("application/json")
        body = await exchange.small_body(JSON_LIMIT)
        head.check_small_body(body)
        try:
            declaration = late_hash.decode_declaration(body)
        except ValueError as error:
            raise malformed(f"{error}.") from error
        reply = messages.ChunkReply(await self._uploads.declare(session, declaration.file_hash))
        reached("server.hash.answering")
        return _json(reply)

    async def _status(self, exchange: Exchange) -> Response:
        session = await self._session(exchange)
        exchange.head.check()
        await self._uploads.status(session)
        reply = messages.StatusReply(
            status=session.status(),
            missing_ranges=to_wire(session.missing()),
            total_bytes=session.total,
            expires_at=_expires_at(session),
        )
        reached("server.status.answering")
        return _json(reply)

    async def _end(self, exchange: Exchange) -> Response:
        user = await self._user(exchange)
        exchange.session = exchange.head.one(messages.HEADER_SESSION)
        session = await self._uploads.find_to_end(user, exchange.session)
        check_hash(session, exchange.head.one(messages.HEADER_FILE_HASH))
        exchange.head.check()
        reply = messages.EndReply(await self._uploads.end(session))
        reached("server.end.answering")
        return _json(reply)

    async def _limits(self, exchange: Exchange) -> Response:
        exchange.head.check()
        limits = self._settings.limits
        reply = messages.LimitsReply(
            digests=list(DIGESTS),
            max_chunk_bytes=limits.chunk,
            max_file_bytes=limits.file,
            extensions=[batch.EXTENSION, late_hash.EXTENSION],
        )
        response = _json(reply)
        response.headers[messages.HEADER_VERSION] = messages.PROTOCOL_VERSION
        return response

    async def _health(self, exchange: Exchange) -> Response:
        exchange.head.check()
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _ready(self, exchange: Exchange) -> Response:
        exchange.head.check()
        if self.stopping:
            raise Refused(503, "The server is stopping.")
        try:
            await self._uploads.probe()
        except (ChunkyError, OSError) as error:
            log.warning("not ready: %s", error)
            raise Refused(503, "Nothing can be stored now; the server's log says why.") from error
        return Response(b'{"status":"ready"}', media_type="application/json")


async def _nothing() -> Message:
    """Handlers read bodies, routes do not."""
    raise NotImplementedError


def _route(path: str, **handlers: Handler) -> Route:
    """One handler for each method; HEAD is answered like GET, without the body."""

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await _answering(request.scope["chunky.exchange"], handlers[method])

    return Route(path, endpoint, methods=list(handlers))


async def _answering(exchange: Exchange, handler: Handler) -> Response:
    """The handler's answer, or the one its exception stands for. What the client cannot mend is told by an ID only."""
    try:
        return await handler(exchange)
    except Problem as error:
        exchange.problem = error.name
        return _refused(error)
    except Refused as error:
        return _blank(error.status, error.detail)
    except StorageFull as error:
        log.warning("request %s: %s", exchange.request_id, error)
        exchange.problem = "storage-full"
        return _refused(storage_full(0, 0))
    except (BodyCut, TimeoutError):
        return _blank(408, "The body did not come.")
    except Exception as error:
        foreseen = isinstance(error, ChunkyError)  # and says in words what is wrong
        log.error("request %s failed: %s", exchange.request_id, error, exc_info=not foreseen)
        exchange.problem = "internal"
        text = f"The server's log has more about it, under the ID {exchange.request_id}; try again."
        return _refused(problem("internal", text))


def _json(reply: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(reply), status, media_type="application/json")


def _refused(error: Problem) -> Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="chunky"'
    return Response(problems.to_document(error), error.status, headers, problems.CONTENT_TYPE)


def _blank(status: int, detail: str) -> Response:
    return Response(problems.blank_document(status, detail), status, media_type=problems.CONTENT_TYPE)


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    response = _blank(status, "There is nothing here under this path and method; docs/protocol.md lists what there is.")
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _expires_at(session: LiveSession) -> str:
    return format_time(int(session.record.expires_at) * 1_000_000_000) or "9999-12-31T23:59:59Z"
