"""Answers as they come over a connection."""

from __future__ import annotations

import http.client

_MOST_INTERIM = 100
_SWITCHING = 101


class Response(http.client.HTTPResponse):
    """The final answer: any interim one (100, 102, 103 …) before it is read over.

    The library knows 100 alone. Another would be taken for the answer, and the real one for that to the next request.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # the stubs leave it out
            if status >= 200 or status == _SWITCHING:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.BadStatusLine("interim answers without an end")


class LastResponse(Response):
    """The answer to a request that was not sent to its end: the connection ends with it."""

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        self.will_close = True
