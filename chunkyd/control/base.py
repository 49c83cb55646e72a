"""What chunkyctl and the daemon say to each other, and what the daemon must be able to do: the contract.

Messages are frozen, their members camelCase in JSON. Times are RFC 3339 in UTC. Text must be encodable: a path goes
through `name_of`, whatever its bytes are. A member that does not apply is null and always there.
"""

from __future__ import annotations

import os
from typing import Protocol

import msgspec

from chunkyd.errors import ConfigError
from chunkyd.protocol.paths import encode_path, readable

CONTROL_VERSION = "1"
VERSION_HEADER = "Chunkyd-Control-Version"
PROBLEM_TYPE = "application/problem+json"
STREAM_TYPE = "application/x-ndjson"
LONGEST_PATH = 107  # bytes of a socket's; sun_path holds one more for the NUL
LARGEST_BODY = 65536
LARGEST_PAGE = 10_000
USUAL_PAGE = 1000
LONGEST_WAIT = 3600.0  # seconds a rescan may be waited for


class Message(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A request's body: a member it does not know is an error, said by name."""


class Answer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the daemon answers: a client ignores members it does not know yet."""


class Selection(Message, frozen=True, kw_only=True):
    """What is meant: these jobs, or all of a folder; neither means everything."""

    jobs: tuple[int, ...] = ()
    folder: str | None = None


class RescanRequest(Message, frozen=True, kw_only=True):
    """Look through a folder (None: all) now; with `wait` the answer comes when it is done, or after `timeout` s."""

    folder: str | None = None
    wait: bool = False
    timeout: float = 600.0


class JobView(Answer, frozen=True, kw_only=True):
    """A job as lists show it. `path` is below the folder; `path_bytes` (base64) only where it is not UTF-8."""

    id: int
    folder: str
    path: str
    path_bytes: str | None = None
    state: str
    reason: str | None = None
    bytes_done: int
    bytes_total: int
    attempts: int
    next_attempt: str | None = None
    error: str | None = None


class JobDetail(JobView, frozen=True, kw_only=True):
    """All that is known of a job. `session_id` is its first 8 characters: enough for a log, not for an upload."""

    size: int
    modified: str | None = None
    priority: int
    created: str
    updated: str
    finished: str | None = None
    file_hash: str | None = None
    session_id: str | None = None
    bytes_sent: int = 0  # over the network, what came twice counted twice
    restarts: int = 0  # new sessions for the same version
    resumed_times: int = 0
    resumed_from: int | None = None  # bytes the server had when it was last resumed


class JobPage(Answer, frozen=True, kw_only=True):
    """Some jobs in order; `next` goes into `after` for those that follow, null at the end."""

    jobs: tuple[JobView, ...]
    next: int | None = None


class HistoryPage(Answer, frozen=True, kw_only=True):
    """Finished jobs, newest first; `next` as in JobPage."""

    jobs: tuple[JobDetail, ...]
    next: int | None = None


class Notice(Answer, frozen=True, kw_only=True):
    """Something that is not as it should be, and what to do about it."""

    what: str
    mend: str = ""


class FolderView(Answer, frozen=True, kw_only=True):
    """A watched folder. `state`: `ok`, `scanning`, `degraded`, `polling`, `missing` or `paused`."""

    name: str
    path: str
    state: str
    paused: bool = False
    problem: str | None = None
    mend: str | None = None
    files: int = 0
    directories: int = 0
    changing: int = 0  # files that do not settle
    changing_paths: tuple[str, ...] = ()  # some of them
    skipped: int = 0  # what is no regular file, or cannot be read
    last_scan: str | None = None
    jobs: dict[str, int] = {}


class Held(Answer, frozen=True, kw_only=True):
    """The whole queue waits behind one probe: why, and when it asks next (null: when something is changed)."""

    reason: str
    what: str = ""
    next_probe: str | None = None


class StatusView(Answer, frozen=True, kw_only=True):
    """The daemon at one glance. `state`: `ok`, `degraded`, `paused` (by the user) or `offline`."""

    state: str
    problems: tuple[Notice, ...] = ()
    folders: tuple[FolderView, ...] = ()
    jobs: dict[str, int] = {}
    bytes_per_second: int = 0
    version: str
    pid: int
    since: str
    server: str
    held: Held | None = None
    bandwidth: str = "unlimited"


class Refusal(Answer, frozen=True, kw_only=True):
    """A job for which it was not done, and why."""

    id: int
    what: str
    mend: str = ""


class Outcome(Answer, frozen=True, kw_only=True):
    """How many jobs were changed; one that already was as wanted is neither changed nor refused."""

    changed: int
    refused: tuple[Refusal, ...] = ()


class RescanOutcome(Answer, frozen=True, kw_only=True):
    """Which folders are looked through; `finished` only where the caller waited for it."""

    folders: tuple[str, ...]
    finished: bool


class ReloadOutcome(Answer, frozen=True, kw_only=True):
    """Whether the new settings are in force; if not, the old ones still are. `need_restart` names keys that wait."""

    reloaded: bool
    what: str = ""
    mend: str = ""
    need_restart: tuple[str, ...] = ()


class Event(Answer, frozen=True, kw_only=True):
    """Something happened. IDs grow, over restarts too. Kinds of the stream itself: `stream` (its first line: the ID
    it stands at) and `gap` (events before this ID are lost: read the state anew).
    """

    id: int
    kind: str
    time: str | None = None
    job: JobView | None = None
    text: str | None = None


class EventBatch(Answer, frozen=True, kw_only=True):
    """Events after an ID, oldest first; `gap` where some of those asked for are no longer kept. `last` is where
    the log stands, if nothing came.
    """

    events: tuple[Event, ...]
    gap: bool
    last: int


class Trouble(Answer, frozen=True, kw_only=True):
    """The body of an error (problem+json)."""

    title: str
    status: int
    what: str
    mend: str = ""


class Backend(Protocol):
    """What the daemon does for its control socket. Called from several threads; returns within seconds.

    What the user did wrong (an unknown folder, an unknown state) raises `errors.UserError`, what the machine did
    `errors.EnvironmentFailure`; their `what` and `mend` reach the user. Anything else is a mistake of ours: the
    user is told to look into the log.
    """

    def status(self) -> StatusView:
        """The daemon at one glance; reads what is known, waits for nobody."""
        ...

    def jobs(self, states: tuple[str, ...], folder: str | None, limit: int, after: int | None) -> JobPage:
        """Unfinished and failed jobs by ID, or those in `states`, with IDs greater than `after`."""
        ...

    def history(self, limit: int, after: int | None, folder: str | None) -> HistoryPage:
        """Finished jobs, newest first; `after` is the `next` of the page before."""
        ...

    def job(self, job_id: int) -> JobDetail | None:
        """One job, of any state; None where there is none."""
        ...

    def pause(self, selection: Selection) -> Outcome:
        """Hold everything (new jobs too), a folder (its new jobs too), or some jobs; durable."""
        ...

    def resume(self, selection: Selection) -> Outcome:
        """Take back what `pause` of the same scope did; jobs paused for other reasons are tried at once."""
        ...

    def retry(self, jobs: tuple[int, ...]) -> Outcome:
        """Failed jobs go again, waiting ones at once; none given: every failed one."""
        ...

    def cancel(self, jobs: tuple[int, ...]) -> Outcome:
        """Give up these jobs until their files change."""
        ...

    def rescan(self, folder: str | None, *, wait: bool, timeout: float) -> RescanOutcome:
        """Look through a folder, or all; waiting ends at `timeout` seconds, and at once when the daemon stops."""
        ...

    def reload(self) -> ReloadOutcome:
        """Read the configuration again; a bad one is told in the outcome and changes nothing."""
        ...

    def events(self, since: int | None, wait: float) -> EventBatch:
        """What `EventLog.after` returns."""
        ...


def name_of(path: bytes) -> tuple[str, str | None]:
    r"""`path` and `path_bytes` of a message: the readable name (`\xNN` for bytes that are not UTF-8), and base64."""
    return readable(path), encode_path(path)[1]


def check_length(path: str) -> None:
    """ConfigError where the path is longer than a socket's may be."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        what = f"control.socket: {path} has {length} bytes, and a socket's path at most {LONGEST_PATH}"
        raise ConfigError(what, mend="Name a shorter one, like /run/chunkyd/control.sock")
