"""The shapes of all settings: frozen, complete, checked by the loaders. Paths are absolute, times in seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from chunkyd.settings.control import Control
from chunkyd.settings.timetable import Timetable


class Keep(msgspec.Struct, frozen=True):
    """After the upload the source stays where it is."""


class Delete(msgspec.Struct, frozen=True):
    """After the upload the source is deleted."""


class Move(msgspec.Struct, frozen=True):
    """After the upload the source is moved into `folder`, keeping its path below the watched folder."""

    folder: str


class Folder(msgspec.Struct, frozen=True):
    """A watched folder. `name` is what its files arrive under; `poll` None means: find out."""

    path: str
    name: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    settle: float = 5.0
    after_upload: Keep | Delete | Move = Keep()
    priority: int = 0
    rescan: float = 3600.0
    poll: bool | None = None


class Remote(msgspec.Struct, frozen=True):
    """The server that is sent to. `url` ends without a slash."""

    url: str
    token_file: str | None = None
    ca_file: str | None = None
    proxy: str | None = None
    allow_plain: bool = False


class Retry(msgspec.Struct, frozen=True):
    """Attempts in a row without progress, and the backoff between them."""

    attempts: int = 5
    base: float = 1.0
    max: float = 300.0


class Uploads(msgspec.Struct, frozen=True):
    """How the sending is done. `chunk_size` None means: adapt to the link."""

    workers: int = 2
    parallel_chunks: int = 4
    chunk_size: int | None = None
    bandwidth: Timetable = Timetable()
    retry: Retry = Retry()
    verify: Literal["changed", "always"] = "changed"


class Log(msgspec.Struct, frozen=True):
    """What is logged, and how a line looks."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything chunkyd is told."""

    server: Remote
    state_dir: str
    folders: tuple[Folder, ...]
    uploads: Uploads = Uploads()
    control: Control
    log: Log = Log()


class Tls(msgspec.Struct, frozen=True):
    """Certificate (with its chain) and private key, PEM files."""

    certificate: str
    key: str


class Limits(msgspec.Struct, frozen=True):
    """What a server takes. `session_age` None: a session in use never ends; `reserve` bytes stay free on the disk."""

    file: int = 5 << 40
    chunk: int = 64 << 20
    session_ttl: float = 5 * 86400.0
    session_age: float | None = None
    reserve: int = 1 << 30
    per_user: dict[str, int] = {}


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything chunky-server is told. `listen: HOST:PORT` is read into `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = 8420
    data_dir: str
    auth: Literal["tokens", "open"] = "tokens"
    tls: Tls | None = None
    trusted_proxies: tuple[str, ...] = ()
    limits: Limits = Limits()
    existing: Literal["replace", "keep"] = "replace"
    log: Log = Log()


def changed_needing_restart(old: DaemonSettings, new: DaemonSettings) -> list[str]:
    """The keys that differ and cannot change while the daemon runs: what is open stays open where it is."""
    compared = {
        "state_dir": (old.state_dir, new.state_dir),
        "control.socket": (old.control.socket, new.control.socket),
        "control.group": (old.control.group, new.control.group),
    }
    return [key for key, (before, after) in compared.items() if before != after]
