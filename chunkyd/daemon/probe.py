"""One probe for a whole queue: while the network or the token is what is wrong, nobody else tries.

`network`: the server's readiness decides. `auth`: whether it accepts the token, looked up anew each time, so both a new
token here and a token added there end the hold.
"""

from __future__ import annotations

import logging

from chunkyd.checkpoints import reached
from chunkyd.daemon.connection import Connection
from chunkyd.errors import ChunkyError, Problem
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import Reason

_LOG = logging.getLogger("chunkyd.daemon")


class Probe:
    """Asks the server when the queue says it is time, and lifts the hold or lets the interval grow."""

    def __init__(self, queue: Queue, connection: Connection) -> None:
        self._queue = queue
        self._connection = connection

    @property
    def url(self) -> str:
        """The server that is asked."""
        return self._connection.url

    def ask(self, reason: Reason) -> bool:
        """Whether what was wrong is over; the queue goes on then."""
        try:
            self._connection.refresh()
            self._connection.check_ready()
            if reason is Reason.AUTH:
                self._connection.check_token()
        except Problem as found:
            return self._still(reason, _why(found), found)
        except ChunkyError as error:
            return self._still(reason, Reason.NETWORK, error)
        _LOG.info("the server at %s takes uploads again", self._connection.url)
        self._queue.lift(reason)
        return True

    def _still(self, reason: Reason, found: Reason, error: ChunkyError) -> bool:
        if found is reason:
            self._queue.probe_failed(reason, str(error))
        else:  # another trouble than the one we held for; the queue is never let go in between
            self._queue.hold(found, str(error))
            self._queue.lift(reason)
        return False

    def token_is_new(self) -> bool:
        """Whether another token stands in the token's place than the one that was used last; it is used from now on."""
        try:
            return self._connection.refresh()
        except ChunkyError:  # a file that cannot be read just now is told by the next probe
            return False

    def end_sessions(self) -> bool:
        """End at the server what was superseded, cancelled or completed here; whether none is left to be ended.

        What the server will never end by our asking is let go: it expires. What it cannot end now stays.
        """
        client, url = self._connection.client, self._connection.url
        for ending in self._queue.endings(url):
            try:
                client.end(ending.session_id, ending.file_hash)
            except ChunkyError as error:
                if not _never(error):
                    _LOG.info("a session is to be ended later: %s", error)
                    return False
                _LOG.warning("a session is left to expire at %s: %s", url, error)
            reached("daemon.ending.answered")
            self._queue.ended(ending.url, ending.session_id)
        return True


def _never(error: ChunkyError) -> bool:
    """Whether the same request would be refused for ever."""
    return isinstance(error, Problem) and error.action in ("stop", "rehash", "new-session", "ignore")


def _why(error: ChunkyError) -> Reason:
    if isinstance(error, Problem) and error.action == "reauthenticate":
        return Reason.AUTH
    return Reason.NETWORK
