"""Who is asking. Only hashes of tokens are kept; a token is 256 random bits, so its SHA-256 needs no salt.

- A token is looked up by its hash: what an attacker could learn from timing is the hash of a guess.
- An answer of the catalog serves for a second, so that a revoked token is dead a second later.
- Failures are limited per address; a valid token is never refused for what others did behind the same address.
- Open mode has one user, `local`, and answers loopback names only, never a foreign web page (rule 12).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import urlsplit

from chunkyd.catalog.base import Catalog, TokenRecord
from chunkyd.clock import Clock
from chunkyd.errors import Problem, UsageError
from chunkyd.protocol.problems import problem
from chunkyd.server.threads import Threads

OPEN_USER = "local"
TOKEN_BYTES = 32
_USER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,63})", re.ASCII)
CACHE_SECONDS = 1.0
CACHE_TOKENS = 10_000
FAILURES = 20  # in a row, per address; one more each second
ADDRESSES = 10_000


def token_digest(token: str) -> bytes:
    """As it is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token(user: str, created: float, note: str = "") -> tuple[str, TokenRecord]:
    """A fresh token, to be shown once, and its record."""
    token = "chunky_" + secrets.token_urlsafe(TOKEN_BYTES)
    return token, TokenRecord(secrets.token_hex(4), user, token_digest(token), created, note)


def check_user_name(name: str) -> None:
    """A name stands in paths, logs and configs, so it is plain; UsageError, else."""
    if _USER_NAME.fullmatch(name) is None:
        what = f"{name!r} is no name for a user"
        raise UsageError(what, mend="Use letters, digits, and . _ @ - within it; at most 64 of them")


class Failures:
    """A bucket of failures for each address: `FAILURES` at once, one more a second. Pure."""

    def __init__(self) -> None:
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → failures, when

    def add(self, address: str, now: float) -> bool:
        """Count one; False where the bucket is empty."""
        spent, when = self._spent.pop(address, (0.0, now))
        spent = max(0.0, spent - (now - when))
        allowed = spent + 1 <= FAILURES
        self._spent[address] = (min(FAILURES, spent + 1), now)
        if len(self._spent) > ADDRESSES:
            self._spent.popitem(last=False)
        return allowed


class Authority:
    """Turns an `Authorization` header into a user."""

    def __init__(self, catalog: Catalog, threads: Threads, clock: Clock, *, open_mode: bool) -> None:
        self._catalog = catalog
        self._threads = threads
        self._clock = clock
        self._open_mode = open_mode
        self._failures = Failures()
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    async def user(self, authorization: str | None, address: str) -> str:
        """The user. Raises unauthorized, rate-limited."""
        if self._open_mode:
            return OPEN_USER
        user = await self._look_up(authorization)
        if user is not None:
            return user
        if not self._failures.add(address, self._clock.monotonic()):
            raise problem("rate-limited", "Too many requests without a valid token; slow down.", retry_after=1.0)
        text = "A valid token is needed: Authorization: Bearer <token>. Ask the server's administrator for one."
        raise problem("unauthorized", text)

    async def _look_up(self, authorization: str | None) -> str | None:
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        digest = token_digest(token)
        now = self._clock.monotonic()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        user = await self._threads.record(self._catalog.token_user, digest)
        self._known.pop(digest, None)
        if user is not None:
            self._known[digest] = (user, now + CACHE_SECONDS)
            if len(self._known) > CACHE_TOKENS:
                self._known.popitem(last=False)
        return user


def check_open_request(host: str | None, origin: str | None, fetch_site: str | None) -> None:
    """Rule 12: an open server must not be reached through a web page. Raises forbidden."""
    if host is None or not _is_loopback(host):
        raise _forbidden("An open server answers only to a loopback name, like localhost or 127.0.0.1, in Host.")
    if fetch_site is not None and fetch_site.lower() == "cross-site":
        raise _forbidden("An open server answers no request that another web site caused.")
    if origin is not None and urlsplit(f"//{host}").netloc.lower() != _netloc(origin):
        raise _forbidden("An open server answers no request of a foreign origin.")


def _netloc(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None


def _is_loopback(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        parts.port  # noqa: B018 — raises where it is no number
    except ValueError:
        return False
    if parts.netloc != host or parts.username is not None or parts.path:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _forbidden(text: str) -> Problem:
    return problem("forbidden", text)


class Proxies:
    """The reverse proxies whose `X-Forwarded-For` counts."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(item) for item in trusted]

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """The nearest address that is no trusted proxy's."""
        chain = [hop.strip() for header in forwarded for hop in header.split(",")]
        address = peer
        while chain and self._trusts(address):
            address = chain.pop()
        return address if self._is_address(address) else peer

    def _trusts(self, address: str) -> bool:
        return self._is_address(address) and any(ipaddress.ip_address(address) in net for net in self._networks)

    @staticmethod
    def _is_address(text: str) -> bool:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
