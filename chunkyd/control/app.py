"""The routes, as a WSGI application over a Backend: read, check, one call, answer. It knows no sockets.

- Who speaks is checked before anything is read; a version this end does not speak is refused before its body.
- Every error is a problem with `what` and `mend`; of a mistake of ours a peer learns only where to look in the log.
- Of the server it needs two entries of `environ`: `chunkyd.peer`, the peer's uid, and `chunkyd.allow`, called with
  the seconds the peer may take from now on (None: it is the daemon that is at work).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from chunkyd.control.base import (
    CONTROL_VERSION,
    LONGEST_WAIT,
    PROBLEM_TYPE,
    STREAM_TYPE,
    VERSION_HEADER,
    Answer,
    Backend,
    Message,
    RescanRequest,
    Selection,
    Trouble,
)
from chunkyd.control.request import Query, Refused, read_body, whole_number
from chunkyd.control.stream import EventStream, StreamSlots
from chunkyd.errors import ChunkyError, ConfigError, EnvironmentFailure, UsageError, UserError
from chunkyd.protocol.documents import encodable, encode

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_log = logging.getLogger("chunkyd.control")

ANSWER_SECONDS = 30.0  # for a peer to take a whole answer
_JOB_PREFIX = "/v1/jobs/"
STATUSES: tuple[tuple[type[ChunkyError], int], ...] = (  # the first that fits
    (UsageError, 400),
    (ConfigError, 422),
    (UserError, 409),
    (EnvironmentFailure, 503),
    (ChunkyError, 500),
)


class Nothing(Message, frozen=True, kw_only=True):
    """A body that has no members."""


class ControlApp:
    """`allowed` says which uid may speak; `slots` bounds the event streams."""

    def __init__(self, backend: Backend, allowed: Callable[[int], bool], slots: StreamSlots) -> None:
        self._backend = backend
        self._allowed = allowed
        self._slots = slots
        self._routes: dict[tuple[str, str], Callable[[WSGIEnvironment], Answer]] = {
            ("GET", "/v1/status"): self._status,
            ("GET", "/v1/jobs"): self._jobs,
            ("GET", "/v1/history"): self._history,
            ("POST", "/v1/pause"): lambda environ: backend.pause(_selection(environ)),
            ("POST", "/v1/resume"): lambda environ: backend.resume(_selection(environ)),
            ("POST", "/v1/retry"): lambda environ: backend.retry(_jobs_only(environ)),
            ("POST", "/v1/cancel"): self._cancel,
            ("POST", "/v1/rescan"): self._rescan,
            ("POST", "/v1/reload"): self._reload,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request to its answer."""
        allow: Callable[[float | None], None] = environ["chunkyd.allow"]
        try:
            self._check_peer(environ)
            if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("GET", "/v1/events"):
                stream = self._stream(environ, allow)
                start_response("200 OK", _headers(STREAM_TYPE))
                return stream
            answer, status = self._answer(environ), 200
        except Refused as refused:
            answer, status = _trouble(refused.status, refused.what, refused.mend), refused.status
        except ChunkyError as error:
            status = next(number for kind, number in STATUSES if isinstance(error, kind))
            answer = _trouble(status, encodable(error.what), encodable(error.mend))
        except Exception:  # noqa: BLE001 - the last door: a mistake of ours must not end the thread, nor reach a peer
            answer, status = _mistake(), 500
        allow(ANSWER_SECONDS)
        return _send(start_response, status, answer)

    def _check_peer(self, environ: WSGIEnvironment) -> None:
        peer = environ["chunkyd.peer"]
        if not self._allowed(peer):
            mend = "Run it as the daemon's user or as root, or join the group named in control.group"
            raise Refused(403, f"the user with the number {peer} may not control this chunkyd", mend)
        spoken = environ.get("HTTP_" + VERSION_HEADER.upper().replace("-", "_"), CONTROL_VERSION)
        if spoken != CONTROL_VERSION:
            what = f"this chunkyd speaks version {CONTROL_VERSION} of the control protocol, the client {spoken[:20]}"
            raise Refused(400, what, "Use chunkyctl and chunkyd of the same release; restart chunkyd after an update")

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith(_JOB_PREFIX):
            if method != "GET":
                raise Refused(405, f"{path} takes GET, not {method}")
            Query(environ)
            return self._job(path.removeprefix(_JOB_PREFIX))
        route = self._routes.get((method, path))
        if route is not None:
            return route(environ)
        methods = [known for known, at in self._routes if at == path]
        if methods or path == "/v1/events":
            raise Refused(405, f"{path} takes {methods[0] if methods else 'GET'}, not {method}")
        raise Refused(404, f"there is nothing at {path[:200]}", "Use chunkyctl and chunkyd of the same release")

    def _status(self, environ: WSGIEnvironment) -> Answer:
        Query(environ)
        return self._backend.status()

    def _jobs(self, environ: WSGIEnvironment) -> Answer:
        query = Query(environ, "state", "folder", "limit", "after")
        return self._backend.jobs(query.texts("state"), query.text("folder"), query.limit(), query.number("after"))

    def _history(self, environ: WSGIEnvironment) -> Answer:
        query = Query(environ, "limit", "after", "folder")
        return self._backend.history(query.limit(), query.number("after"), query.text("folder"))

    def _job(self, written: str) -> Answer:
        job_id = whole_number("a job's number", written)
        found = self._backend.job(job_id)
        if found is None:
            raise Refused(404, f"there is no job {job_id}", "See `chunkyctl list` and `chunkyctl history`")
        return found

    def _cancel(self, environ: WSGIEnvironment) -> Answer:
        jobs = _jobs_only(environ)
        if not jobs:
            raise Refused(400, "no job to cancel is named", "Name its number, as `chunkyctl list` shows it")
        return self._backend.cancel(jobs)

    def _rescan(self, environ: WSGIEnvironment) -> Answer:
        wanted = read_body(environ, RescanRequest)
        if not 0 <= wanted.timeout <= LONGEST_WAIT:
            raise Refused(400, f"timeout takes seconds from 0 to {LONGEST_WAIT:.0f}")
        environ["chunkyd.allow"](None)
        return self._backend.rescan(wanted.folder, wait=wanted.wait, timeout=wanted.timeout)

    def _reload(self, environ: WSGIEnvironment) -> Answer:
        read_body(environ, Nothing)
        environ["chunkyd.allow"](None)
        return self._backend.reload()

    def _stream(self, environ: WSGIEnvironment, allow: Callable[[float | None], None]) -> EventStream:
        since = Query(environ, "since").number("since")
        if not self._slots.take():
            raise Refused(503, "there are as many event streams as there may be", "Close one, or try again later")
        return EventStream(self._backend, since, self._slots, allow)


def _selection(environ: WSGIEnvironment) -> Selection:
    selection = read_body(environ, Selection)
    if selection.jobs and selection.folder is not None:
        raise Refused(400, "both jobs and a folder are named", "Name jobs, or a folder, or nothing for everything")
    return selection


def _jobs_only(environ: WSGIEnvironment) -> tuple[int, ...]:
    selection = read_body(environ, Selection)
    if selection.folder is not None:
        raise Refused(400, "this takes jobs, not a folder", "Name the jobs' numbers")
    return selection.jobs


def _trouble(status: int, what: str, mend: str) -> Trouble:
    return Trouble(title=HTTPStatus(status).phrase, status=status, what=what, mend=mend)


def _mistake() -> Trouble:
    place = secrets.token_hex(4)
    _log.exception("a request on the control socket failed (%s)", place)
    return _trouble(500, "chunkyd made a mistake", f"Look for {place} in its log, and report it")


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        (VERSION_HEADER, CONTROL_VERSION),
    ]


def _send(start_response: StartResponse, status: int, answer: Answer) -> list[bytes]:
    body = encode(answer)
    headers = _headers(PROBLEM_TYPE if isinstance(answer, Trouble) else "application/json")
    start_response(f"{status} {HTTPStatus(status).phrase}", [*headers, ("Content-Length", str(len(body)))])
    return [body]
