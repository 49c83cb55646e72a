"""The whole effective configuration as YAML, for people and for `check-config`: loaded again it is equal.

There is no secret in it: tokens are in files of their own, and the password of a proxy is not shown.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import yaml

from chunkyd.settings.shapes import (
    DaemonSettings,
    Delete,
    Folder,
    Keep,
    Limits,
    Move,
    Remote,
    ServerSettings,
    Uploads,
)
from chunkyd.settings.timetable import format_timetable
from chunkyd.settings.units import format_duration, format_size

_ONE_LINE = 1 << 30


class _Dumper(yaml.SafeDumper):
    """Escapes every text with an unusual character: PyYAML's other styles do not bring back each of them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text that is plain where it can be."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def render(settings: DaemonSettings | ServerSettings) -> str:
    """A document the loaders read back, every default written out."""
    document = _daemon(settings) if isinstance(settings, DaemonSettings) else _server(settings)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ONE_LINE)


def _daemon(settings: DaemonSettings) -> dict[str, object]:
    return {
        "server": _remote(settings.server),
        "state_dir": settings.state_dir,
        "folders": [_folder(folder) for folder in settings.folders],
        "uploads": _uploads(settings.uploads),
        "control": {"socket": settings.control.socket} | _given("group", settings.control.group),
        "log": {"level": settings.log.level, "format": settings.log.format},
    }


def _given(key: str, value: str | None) -> dict[str, object]:
    return {} if value is None else {key: value}


def _remote(remote: Remote) -> dict[str, object]:
    return {
        "url": remote.url,
        **_given("token_file", remote.token_file),
        **_given("ca_file", remote.ca_file),
        **_given("proxy", _without_password(remote.proxy)),
        "allow_plain": remote.allow_plain,
    }


def _without_password(url: str | None) -> str | None:
    """The same URL, its password as stars."""
    parts = urlsplit(url or "")
    if url is None or parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}:***@{host}").geturl()


def _folder(folder: Folder) -> dict[str, object]:
    return {
        "path": folder.path,
        "name": folder.name,
        "include": list(folder.include),
        "exclude": list(folder.exclude),
        "settle": format_duration(folder.settle),
        "after_upload": _after(folder.after_upload),
        "priority": folder.priority,
        "rescan": format_duration(folder.rescan),
        "poll": "auto" if folder.poll is None else folder.poll,
    }


def _after(after: Keep | Delete | Move) -> object:
    if isinstance(after, Move):
        return {"move": after.folder}
    return "delete" if isinstance(after, Delete) else "keep"


def _uploads(uploads: Uploads) -> dict[str, object]:
    return {
        "workers": uploads.workers,
        "parallel_chunks": uploads.parallel_chunks,
        "chunk_size": "auto" if uploads.chunk_size is None else format_size(uploads.chunk_size),
        "bandwidth": format_timetable(uploads.bandwidth),
        "retry": {
            "attempts": uploads.retry.attempts,
            "base": format_duration(uploads.retry.base),
            "max": format_duration(uploads.retry.max),
        },
        "verify": uploads.verify,
    }


def _server(settings: ServerSettings) -> dict[str, object]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    tls = settings.tls and {"certificate": settings.tls.certificate, "key": settings.tls.key}
    return {
        "listen": f"{host}:{settings.port}",
        "data_dir": settings.data_dir,
        "auth": settings.auth,
        "tls": tls or "none",
        "trusted_proxies": list(settings.trusted_proxies),
        "limits": _limits(settings.limits),
        "existing": settings.existing,
        "log": {"level": settings.log.level, "format": settings.log.format},
    }


def _limits(limits: Limits) -> dict[str, object]:
    return {
        "file": format_size(limits.file),
        "chunk": format_size(limits.chunk),
        "session_ttl": format_duration(limits.session_ttl),
        "session_age": "none" if limits.session_age is None else format_duration(limits.session_age),
        "reserve": format_size(limits.reserve),
        "per_user": {name: format_size(size) for name, size in limits.per_user.items()},
    }
