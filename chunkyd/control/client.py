"""The other end of the control socket: a method for each request, answers as structs, errors as the one hierarchy.

Each method connects anew: a daemon that was restarted in between is simply the one that answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from chunkyd.control.base import (
    CONTROL_VERSION,
    VERSION_HEADER,
    Answer,
    Event,
    HistoryPage,
    JobDetail,
    JobPage,
    Message,
    Outcome,
    ReloadOutcome,
    RescanOutcome,
    RescanRequest,
    Selection,
    StatusView,
    Trouble,
    check_length,
)
from chunkyd.control.exchange import NoHttp, Response, ask
from chunkyd.errors import ChunkyError, ConfigError, EnvironmentFailure, Unreachable, UsageError, UserError
from chunkyd.protocol.documents import decode, encodable, encode

Kind = TypeVar("Kind", bound=Answer)

_PATIENCE = 15.0  # seconds for an answer
_STREAM_SILENCE = 30.0  # the daemon writes at least an empty line every ten
_LARGEST_ANSWER = 64 << 20
_RAISED: dict[int, type[ChunkyError]] = {
    400: UsageError,
    403: UserError,
    404: UserError,
    405: UsageError,
    409: UserError,
    413: UsageError,
    422: ConfigError,
}


class DaemonDown(Unreachable):
    """Nobody listens at the socket: what is in the job table can still be read from there."""


class ControlClient:
    """Speaks to the chunkyd whose socket is at `path`."""

    def __init__(self, path: str) -> None:
        check_length(path)
        self._path = path

    def status(self) -> StatusView:
        """The daemon at one glance."""
        return self._ask("GET", "/v1/status", StatusView)

    def jobs(
        self,
        states: tuple[str, ...] = (),
        folder: str | None = None,
        limit: int | None = None,
        after: int | None = None,
    ) -> JobPage:
        """A page of unfinished and failed jobs, or of those in `states`."""
        state = ",".join(states) or None
        return self._ask("GET", _target("/v1/jobs", state=state, folder=folder, limit=limit, after=after), JobPage)

    def history(self, limit: int | None = None, after: int | None = None, folder: str | None = None) -> HistoryPage:
        """A page of finished jobs, newest first."""
        return self._ask("GET", _target("/v1/history", limit=limit, after=after, folder=folder), HistoryPage)

    def job(self, job_id: int) -> JobDetail:
        """One job; UserError where there is none."""
        return self._ask("GET", f"/v1/jobs/{job_id}", JobDetail)

    def pause(self, selection: Selection) -> Outcome:
        """Hold jobs, a folder, or everything."""
        return self._ask("POST", "/v1/pause", Outcome, selection)

    def resume(self, selection: Selection) -> Outcome:
        """Let them go on."""
        return self._ask("POST", "/v1/resume", Outcome, selection)

    def retry(self, jobs: tuple[int, ...] = ()) -> Outcome:
        """Try these again; none given: every failed one."""
        return self._ask("POST", "/v1/retry", Outcome, Selection(jobs=jobs))

    def cancel(self, jobs: tuple[int, ...]) -> Outcome:
        """Give these up."""
        return self._ask("POST", "/v1/cancel", Outcome, Selection(jobs=jobs))

    def rescan(self, folder: str | None = None, *, wait: bool = False, timeout: float = 600.0) -> RescanOutcome:
        """Look through a folder or all; with `wait`, until that is done or `timeout` seconds are over."""
        request = RescanRequest(folder=folder, wait=wait, timeout=timeout)
        return self._ask("POST", "/v1/rescan", RescanOutcome, request, _PATIENCE + (timeout if wait else 0.0))

    def reload(self) -> ReloadOutcome:
        """Read the configuration again."""
        return self._ask("POST", "/v1/reload", ReloadOutcome)

    def events(self, since: int | None = None) -> Iterator[Event]:
        """Events as they come, the stream's own two kinds too; ends when the daemon does."""
        with self._answer("GET", _target("/v1/events", since=since), None, _STREAM_SILENCE) as response:
            while line := response.readline():
                if line.strip():
                    yield _read(line, Event)

    def _ask(
        self, method: str, target: str, kind: type[Kind], message: Message | None = None, patience: float = _PATIENCE
    ) -> Kind:
        with self._answer(method, target, message, patience) as response:
            return _read(response.read(_LARGEST_ANSWER), kind)

    @contextlib.contextmanager
    def _answer(self, method: str, target: str, message: Message | None, patience: float) -> Iterator[Response]:
        body = b"" if message is None else encode(message)
        headers = {VERSION_HEADER: CONTROL_VERSION, "Content-Type": "application/json"}
        with _translated(self._path, patience), ask(self._path, method, target, headers, body, patience) as response:
            _check(response)
            yield response


@contextlib.contextmanager
def _translated(path: str, patience: float) -> Iterator[None]:
    """The errors of sockets and HTTP, as a user understands them."""
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        mend = "Start it with `chunkyd start` or systemctl; if it runs, name its socket with --socket or --config"
        raise DaemonDown(f"chunkyd is not running: nobody listens at {path}", mend=mend) from error
    except PermissionError as error:
        mend = "Run this as the daemon's user or as root, or join the group named in control.group"
        raise Unreachable(f"{path} may not be used by this user", mend=mend) from error
    except TimeoutError as error:
        mend = "It may be overloaded: try again, and look into its log"
        raise Unreachable(f"chunkyd at {path} gave no answer for {patience:.0f} s", mend=mend) from error
    except (OSError, NoHttp) as error:
        mend = "If it is being stopped or restarted, try again when it runs"
        raise Unreachable(f"chunkyd at {path} broke off: {error}", mend=mend) from error


def _check(response: Response) -> None:
    """Raise what an answer says that is no success, or not from a chunkyd that speaks this version."""
    spoken = response.headers.get(VERSION_HEADER.lower())
    if spoken != CONTROL_VERSION and response.status < 500:
        what = f"what answers speaks {f'version {spoken}' if spoken else 'no version'} of the control protocol"
        mend = "Use chunkyctl and chunkyd of the same release; restart chunkyd after an update"
        raise Unreachable(f"{what}, and this chunkyctl version {CONTROL_VERSION}", mend=mend)
    if response.status == 200:
        return
    try:
        trouble = decode(response.read(_LARGEST_ANSWER), Trouble)
    except ValueError as error:
        what = f"chunkyd answered {response.status} {response.reason}"
        raise EnvironmentFailure(what, mend="Try again; if it stays, look into its log") from error
    raise _RAISED.get(response.status, EnvironmentFailure)(trouble.what, mend=trouble.mend)


def _read(body: bytes, kind: type[Kind]) -> Kind:
    try:
        return decode(body, kind)
    except ValueError as error:
        mend = "Use chunkyctl and chunkyd of the same release; restart chunkyd after an update"
        raise EnvironmentFailure(f"the answer is not one this chunkyctl knows: {error}", mend=mend) from error


def _target(route: str, **members: str | int | None) -> str:
    """A route with a query of those members that are given."""
    query = "&".join(f"{name}={_quoted(value)}" for name, value in members.items() if value is not None)
    return f"{route}?{query}" if query else route


def _quoted(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    from urllib.parse import quote_plus  # not for numbers, which is all that most commands ask with

    return quote_plus(encodable(value))
