"""chunkyd's settings: from its config file, under what the environment says."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from chunkyd.settings.control import read_control
from chunkyd.settings.document import overlay, read_document
from chunkyd.settings.patterns import compiled
from chunkyd.settings.places import DAEMON, default_state_dir, is_inside, path_reader
from chunkyd.settings.reader import (
    Entry,
    at_least,
    flag,
    keys_of,
    or_word,
    parsed,
    text,
    texts,
    whole_number,
)
from chunkyd.settings.shapes import (
    DaemonSettings,
    Delete,
    Folder,
    Keep,
    Log,
    Move,
    Remote,
    Retry,
    Uploads,
)
from chunkyd.settings.timetable import parse_timetable
from chunkyd.settings.units import parse_duration, parse_size
from chunkyd.settings.values import shown

_SMALLEST_CHUNK = 1024
_LARGEST_CHUNK = 1 << 30
_LONGEST_NAME = 255


def load_daemon(path: str, environ: Mapping[str, str]) -> DaemonSettings:
    """The settings in this file, with the environment's `CHUNKYD_…` over them; ConfigError says where and what."""
    document = overlay(read_document(path), DAEMON.prefix, DAEMON.reserved, environ)
    section = Entry("", document).section(keys_of(DaemonSettings))
    read_path = path_reader(path, environ)
    settings = DaemonSettings(
        server=_read_remote(section.entry("server"), read_path),
        state_dir=section.optional("state_dir", read_path, default_state_dir(environ)),
        folders=_read_folders(section.entry("folders"), read_path),
        uploads=_read_uploads(section.entry("uploads")),
        control=read_control(section.entry("control"), read_path, environ),
        log=read_log(section.entry("log")),
    )
    _keep_apart(section.entry("folders"), settings)
    return settings


def read_log(entry: Entry) -> Log:
    """The section `log`, which both programs have."""
    section = entry.section(keys_of(Log))
    return Log(
        level=section.optional("level", _read_level, "info"),
        format=section.optional("format", _read_format, "text"),
    )


def _read_level(entry: Entry) -> Literal["debug", "info", "warning", "error"]:
    match entry.text():
        case "debug" | "info" | "warning" | "error" as level:
            return level
    raise entry.error(f"takes debug, info, warning or error, not {shown(entry.text())}")


def _read_format(entry: Entry) -> Literal["text", "json"]:
    match entry.text():
        case "text" | "json" as log_format:
            return log_format
    raise entry.error(f"takes text or json, not {shown(entry.text())}")


def _read_remote(entry: Entry, read_path: Callable[[Entry], str]) -> Remote:
    section = entry.section(keys_of(Remote))
    mend = "Say where the server is, like https://files.example.org"
    remote = Remote(
        url=section.required("url", _read_url, mend),
        token_file=section.optional("token_file", read_path, None),
        ca_file=section.optional("ca_file", read_path, None),
        proxy=section.optional("proxy", or_word("none", _read_proxy), None),
        allow_plain=section.optional("allow_plain", flag, False),
    )
    parts = urlsplit(remote.url)
    if parts.scheme == "http" and not remote.allow_plain and not is_loopback(parts.hostname or ""):
        what = "plain http over a network: token and files would travel where everybody on the way can read them"
        raise section.entry("url").error(what, "Use https, or set server.allow_plain: true on a network you trust")
    return remote


def _split_url(entry: Entry) -> SplitResult:
    """An http or https URL with a host and nothing odd."""
    written = text(entry)
    if any(character <= " " or character == "\x7f" for character in written):
        raise entry.error("the URL holds a space or a control character")
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError as error:
        raise entry.error(f"not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise entry.error("takes a URL that begins with https:// or http://")
    if not parts.hostname or port == 0:
        raise entry.error("the URL names no host" if not parts.hostname else "there is no port 0")
    if parts.query or parts.fragment:
        raise entry.error("the URL has a '?' or '#' part; only a path may follow the host")
    return parts


def _read_url(entry: Entry) -> str:
    """The server's URL, without the slash at its end."""
    parts = _split_url(entry)
    if parts.username is not None:
        raise entry.error("the URL holds a user or password", "Put the token into a file and name it in token_file")
    return parts.geturl().rstrip("/")


def _read_proxy(entry: Entry) -> str:
    return _split_url(entry).geturl()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone; nothing is looked up."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_folders(entry: Entry, read_path: Callable[[Entry], str]) -> tuple[Folder, ...]:
    entries = entry.items()
    if not entries:
        raise entry.error("there is nothing to watch", "Name a folder: folders: [{path: /srv/footage}]")
    folders: dict[str, Folder] = {}
    for item in entries:
        folder = _read_folder(item, read_path)
        if folder.name in folders:
            what = f"{folders[folder.name].path} and {folder.path} would both arrive as {shown(folder.name)}"
            raise item.error(what, "Give one of them another name: with the key name")
        folders[folder.name] = folder
    return tuple(folders.values())


def _read_folder(entry: Entry, read_path: Callable[[Entry], str]) -> Folder:
    section = entry.section(keys_of(Folder))
    path = section.required("path", read_path, "Say which folder is watched")
    name = section.optional("name", text, os.path.basename(path))
    _check_name(section.entry("name") if "name" in section else section.entry("path"), name)
    return Folder(
        path=path,
        name=name,
        include=section.optional("include", _read_patterns, ()),
        exclude=section.optional("exclude", _read_patterns, ()),
        settle=section.optional("settle", parsed(parse_duration), 5.0),
        after_upload=_read_after(section.entry("after_upload"), read_path) if "after_upload" in section else Keep(),
        priority=section.optional("priority", whole_number(-1_000_000, 1_000_000), 0),
        rescan=section.optional("rescan", at_least(parsed(parse_duration), 1.0, "1s"), 3600.0),
        poll=section.optional("poll", or_word("auto", flag), None),
    )


def _read_patterns(entry: Entry) -> tuple[str, ...]:
    for item in entry.items():
        if not text(item).strip():
            raise item.error("is blank")
        try:
            compiled((text(item),))
        except ValueError as error:
            raise item.error(str(error), "Write it as in a .gitignore file") from error
    return texts(entry)


def _check_name(entry: Entry, name: str) -> None:
    """A name is the first part of the path on the wire, and obeys the protocol's rules for one."""
    if name in ("", ".", "..") or "/" in name:
        raise entry.error(f"{shown(name)} cannot be the name files arrive under", "Give one folder's name, without '/'")
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise entry.error(f"the name has more than {_LONGEST_NAME} bytes", "Give a shorter one with the key name")


def _read_after(entry: Entry, read_path: Callable[[Entry], str]) -> Keep | Delete | Move:
    if entry.is_one_of("keep"):
        return Keep()
    if entry.is_one_of("delete"):
        return Delete()
    if not entry.is_map():
        raise entry.error("takes keep, delete or {move: FOLDER}")
    return Move(entry.section(("move",)).required("move", read_path, "Write keep, delete or {move: FOLDER}"))


def _read_uploads(entry: Entry) -> Uploads:
    section = entry.section(keys_of(Uploads))
    return Uploads(
        workers=section.optional("workers", whole_number(1, 64), 2),
        parallel_chunks=section.optional("parallel_chunks", whole_number(1, 64), 4),
        chunk_size=section.optional("chunk_size", or_word("auto", _read_chunk_size), None),
        bandwidth=section.optional("bandwidth", parsed(parse_timetable), Uploads().bandwidth),
        retry=_read_retry(section.entry("retry")),
        verify=section.optional("verify", _read_verify, "changed"),
    )


def _read_chunk_size(entry: Entry) -> int:
    size = parsed(parse_size)(entry)
    if not _SMALLEST_CHUNK <= size <= _LARGEST_CHUNK:
        raise entry.error(f"takes auto, or a size from 1KiB to 1GiB, not {shown(entry.text())}")
    return size


def _read_verify(entry: Entry) -> Literal["changed", "always"]:
    match entry.text():
        case "changed" | "always" as verify:
            return verify
    raise entry.error(f"takes changed or always, not {shown(entry.text())}")


def _read_retry(entry: Entry) -> Retry:
    section = entry.section(keys_of(Retry))
    duration = at_least(parsed(parse_duration), 0.001, "1ms")
    retry = Retry(
        attempts=section.optional("attempts", whole_number(1, 1000), 5),
        base=section.optional("base", duration, 1.0),
        max=section.optional("max", duration, 300.0),
    )
    if retry.max < retry.base:
        raise section.entry("max").error("is less than uploads.retry.base", "Backoff grows from base to max")
    return retry


def _keep_apart(entry: Entry, settings: DaemonSettings) -> None:
    """No root inside another, and nothing inside a root that is not to be sent: it would be, again and again."""
    for index, (folder, item) in enumerate(zip(settings.folders, entry.items(), strict=True)):
        for other in settings.folders[:index]:
            if is_inside(folder.path, other.path) or is_inside(other.path, folder.path):
                raise item.error(
                    f"{folder.path} and {other.path} are one inside the other", "Watch the outer one alone"
                )
        for what, path in _not_to_be_sent(settings):
            if is_inside(path, folder.path):
                raise item.error(f"{what} {path} is inside the watched {folder.path}", "Put it somewhere else")


def _not_to_be_sent(settings: DaemonSettings) -> list[tuple[str, str]]:
    """What is the daemon's own, or was sent already."""
    own = [("state_dir", settings.state_dir)]
    if settings.server.token_file is not None:
        own.append(("token_file", settings.server.token_file))
    own += [
        ("the move target", folder.after_upload.folder)
        for folder in settings.folders
        if isinstance(folder.after_upload, Move)
    ]
    return own
