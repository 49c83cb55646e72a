"""What the commands of `chunky-server` share: what was said before the command, and the settings."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import click
import msgspec

from chunkyd.protocol.paths import encode_path, readable
from chunkyd.settings import ServerSettings, find_config, load_server


class Options(msgspec.Struct, frozen=True):
    """What was said before the command."""

    config: str | None
    verbose: bool


pass_options = click.make_pass_decorator(Options)


def load(options: Options) -> ServerSettings:
    """The settings the user means."""
    return load_server(find_config("server", options.config, os.environ), os.environ)


def moment(seconds: float) -> str:
    """A time for people and for JSON: RFC 3339, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def path_members(path: bytes) -> dict[str, str]:
    """A path in a JSON document: readable, and its bytes too where they are not UTF-8."""
    _, path_bytes = encode_path(path)
    return {"path": readable(path)} if path_bytes is None else {"path": readable(path), "pathBytes": path_bytes}
