"""What the tests of settings share: documents on disk, and the refusal of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from chunkyd.errors import ConfigError
from chunkyd.settings import DaemonSettings, ServerSettings, load_daemon, load_server

MINIMAL = "server: {url: https://files.example.org}\nfolders:\n- path: /srv/footage\n"
Load = Callable[[str, Mapping[str, str]], DaemonSettings | ServerSettings]


def written(folder: Path, text: str | bytes, name: str = "config.yaml") -> str:
    """The path of a file with this content."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def daemon(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> DaemonSettings:
    """The daemon's settings out of this text."""
    return load_daemon(written(folder, text), environ or {})


def server(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> ServerSettings:
    """The server's settings out of this text."""
    return load_server(written(folder, text), environ or {})


def refusal(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None, load: Load = load_daemon) -> str:
    """The message with which this text is refused, without the folder it is in."""
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text), environ or {})
    assert caught.value.exit_code == 78
    return str(caught.value).replace(f"{folder}/", "")
