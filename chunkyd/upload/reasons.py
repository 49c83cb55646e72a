"""Why a request failed, in the system's words: the libraries' own texts repeat their objects' names and addresses."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator

import urllib3

from chunkyd.upload.answers import printable

_NO_TUNNEL = "Tunnel connection failed: "  # http.client's words, and no more than words
_PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")  # OpenSSL's words for no TLS at the other end


def reason(error: BaseException) -> str:
    """The innermost cause."""
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason})"
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return "timed out"
        if isinstance(cause, OSError) and str(cause).startswith(_NO_TUNNEL):
            return f"the proxy refuses ({printable(str(cause).removeprefix(_NO_TUNNEL))})"
        if isinstance(cause, OSError) and cause.strerror:
            return printable(cause.strerror)
        if _is_not_http(cause):
            return "what it answers is not HTTP"
        if isinstance(cause, http.client.HTTPException | urllib3.exceptions.IncompleteRead):
            return "the connection was closed in the middle of an answer"
    return type(error).__name__


def _is_not_http(error: BaseException) -> bool:
    """Something came that is no status line; nothing at all is another matter."""
    return isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected)


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


def mend(error: BaseException) -> str:
    """What the user can do about it; empty where nothing but waiting helps."""
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return "Check the URL, this machine's clock, and ca_file."
    if any(_is_not_http(cause) or getattr(cause, "reason", "") in _PLAIN_HTTP for cause in _causes(error)):
        return "Check the URL: http or https, and the port."
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in _causes(error)):
        return "Check the proxy that is configured."
    return ""
