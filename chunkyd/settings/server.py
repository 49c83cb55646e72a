"""chunky-server's settings: from its config file, under what the environment says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Literal

from chunkyd.settings.daemon import is_loopback, read_log
from chunkyd.settings.document import overlay, read_document
from chunkyd.settings.places import SERVER, default_data_dir, path_reader
from chunkyd.settings.reader import Entry, at_least, keys_of, or_word, parsed, text, texts
from chunkyd.settings.shapes import Limits, ServerSettings, Tls
from chunkyd.settings.units import parse_duration, parse_size
from chunkyd.settings.values import shown

_KEYS = ("listen", *(key for key in keys_of(ServerSettings) if key not in ("host", "port")))
_LISTEN = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):(\d{1,5})", re.ASCII)


def load_server(path: str, environ: Mapping[str, str]) -> ServerSettings:
    """The settings in this file, under the environment's `CHUNKY_SERVER_…`; ConfigError says where and what."""
    document = overlay(read_document(path), SERVER.prefix, SERVER.reserved, environ)
    section = Entry("", document).section(_KEYS)
    read_path = path_reader(path, environ)
    host, port = section.optional("listen", _read_listen, ("127.0.0.1", 8420))
    settings = ServerSettings(
        host=host,
        port=port,
        data_dir=section.optional("data_dir", read_path, default_data_dir(environ)),
        auth=section.optional("auth", _read_auth, "tokens"),
        tls=section.optional("tls", or_word("none", lambda entry: _read_tls(entry, read_path)), None),
        trusted_proxies=section.optional("trusted_proxies", _read_addresses, ()),
        limits=_read_limits(section.entry("limits")),
        existing=section.optional("existing", _read_existing, "replace"),
        log=read_log(section.entry("log")),
    )
    if settings.auth == "open" and not is_loopback(settings.host):
        what = f"an open server on {settings.host}: everybody who reaches it could store files"
        raise section.entry("auth").error(what, "Use auth: tokens, or listen on 127.0.0.1")
    return settings


def _read_listen(entry: Entry) -> tuple[str, int]:
    """Host and port: `127.0.0.1:8420`, `[::]:8420`."""
    match = _LISTEN.fullmatch(entry.text())
    if match is None:
        raise entry.error(f"takes HOST:PORT, not {shown(entry.text())}", 'Write it like 127.0.0.1:8420 or "[::]:8420"')
    bracketed, plain, port = match.groups()
    if not 1 <= int(port) <= 65535:
        raise entry.error(f"there is no port {port}")
    if bracketed is not None:
        _check_six(entry, bracketed)
    elif not plain:
        raise entry.error("names no host", f'Write 0.0.0.0:{port} or "[::]:{port}" for every address')
    return bracketed or plain, int(port)


def _check_six(entry: Entry, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise entry.error(f"[{host}] is not an IPv6 address") from error


def _read_auth(entry: Entry) -> Literal["tokens", "open"]:
    match entry.text():
        case "tokens" | "open" as auth:
            return auth
    raise entry.error(f"takes tokens or open, not {shown(entry.text())}")


def _read_existing(entry: Entry) -> Literal["replace", "keep"]:
    match entry.text():
        case "replace" | "keep" as existing:
            return existing
    raise entry.error(f"takes replace or keep, not {shown(entry.text())}")


def _read_tls(entry: Entry, read_path: Callable[[Entry], str]) -> Tls:
    section = entry.section(keys_of(Tls))
    return Tls(
        certificate=section.required("certificate", read_path, "Name the PEM file of the certificate and its chain"),
        key=section.required("key", read_path, "Name the PEM file of the private key"),
    )


def _read_addresses(entry: Entry) -> tuple[str, ...]:
    """Addresses, or networks like 10.0.0.0/8."""
    addresses = texts(entry)
    for item, address in zip(entry.items(), addresses, strict=True):
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise item.error(f"not an address or network: {error}") from error
    return addresses


def _read_limits(entry: Entry) -> Limits:
    section = entry.section(keys_of(Limits))
    default = Limits()
    size, duration = parsed(parse_size), at_least(parsed(parse_duration), 0.001, "1ms")
    return Limits(
        file=section.optional("file", _positive(size), default.file),
        chunk=section.optional("chunk", _positive(size), default.chunk),
        session_ttl=section.optional("session_ttl", duration, default.session_ttl),
        session_age=section.optional("session_age", or_word("none", duration), default.session_age),
        reserve=section.optional("reserve", size, default.reserve),
        per_user=section.optional("per_user", _read_allowances, {}),
    )


def _positive(read: Callable[[Entry], int]) -> Callable[[Entry], int]:
    def read_positive(entry: Entry) -> int:
        size = read(entry)
        if size == 0:
            raise entry.error("a limit of 0 would take nothing")
        return size

    return read_positive


def _read_allowances(entry: Entry) -> dict[str, int]:
    return {name: parsed(parse_size)(item) for name, item in entry.named().items() if text(item)}
