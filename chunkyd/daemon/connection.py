"""The one server this daemon sends to: its client, with the token as it is now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from chunkyd.clock import Clock
from chunkyd.errors import Problem
from chunkyd.protocol.messages import EMPTY_FILE_HASH
from chunkyd.settings import Remote, read_token
from chunkyd.upload.transport import Client

_NO_SESSION = "no-such-session-0000000000"


def _nobody_records(url: str) -> None:
    """Where nothing is sent nobody need know to whom."""


class Connection:
    """Makes the client anew when URL, token or certificate change; running uploads keep the one they have.

    `moving` is told another URL before anybody sends there, and may refuse it by raising: then all is as it was.
    """

    def __init__(
        self,
        remote: Remote,
        environ: Mapping[str, str],
        clock: Clock,
        moving: Callable[[str], None] = _nobody_records,
    ) -> None:
        self._environ = environ
        self._clock = clock
        self._moving = moving
        self._guard = threading.Lock()
        self._remote = remote
        self._token = read_token(remote, environ)
        self._client = self._connect(remote, self._token)

    def _connect(self, remote: Remote, token: str | None) -> Client:
        return Client(
            remote.url,
            token=token,
            ca_file=remote.ca_file,
            proxy=remote.proxy,
            allow_plain=remote.allow_plain,
            clock=self._clock,
        )

    @property
    def client(self) -> Client:
        """For the next upload."""
        return self._client

    @property
    def url(self) -> str:
        """Where sessions are remembered for."""
        return self._client.url

    def refresh(self, remote: Remote | None = None) -> bool:
        """Take over new settings, or only look whether the token file has another token; whether anything was new.

        Raises ConfigError, and what `moving` raises; then all is as it was.
        """
        with self._guard:
            wanted = remote or self._remote
            token = read_token(wanted, self._environ)
            if (wanted, token) == (self._remote, self._token):
                return False
            client = self._connect(wanted, token)
            if client.url != self._client.url:
                self._moving(client.url)
            self._client = client
            self._remote, self._token = wanted, token
            return True

    def check_ready(self) -> None:
        """Return if the server can store; raise what is in the way."""
        self._client.ready()

    def check_token(self) -> None:
        """Return if the server accepts the token: it then only finds no such session. Raises what is in the way."""
        try:
            self._client.status(_NO_SESSION, EMPTY_FILE_HASH, 0)
        except Problem as found:
            if found.name != "invalid-session-id":
                raise
