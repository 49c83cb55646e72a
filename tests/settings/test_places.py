"""Which config file, which folders, which token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkyd.errors import ConfigError
from chunkyd.settings import Remote, find_config, read_token

from .helpers import MINIMAL, daemon, server


def test_given_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config comes before the variable, and both are made absolute: the working folder will change."""
    monkeypatch.chdir(tmp_path)
    environ = {"CHUNKYD_CONFIG": "named.yaml", "CHUNKY_SERVER_CONFIG": "/s.yaml", "HOME": "/home/ada"}
    assert find_config("daemon", "given.yaml", environ) == f"{tmp_path}/given.yaml"
    assert find_config("daemon", None, environ) == f"{tmp_path}/named.yaml"
    assert find_config("server", None, environ) == "/s.yaml"
    assert find_config("server", "~/s.yaml", environ) == "/home/ada/s.yaml"


@pytest.mark.parametrize(("kind", "name"), [("daemon", "config.yaml"), ("server", "server.yaml")])
def test_users_own_is_found(tmp_path: Path, kind: str, name: str) -> None:
    """The user's config folder is looked into, wherever XDG says it is."""
    for folder, environ in (
        (tmp_path / ".config", {"HOME": str(tmp_path)}),
        (tmp_path / "xdg", {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}),
    ):
        (folder / "chunkyd").mkdir(parents=True)
        (folder / "chunkyd" / name).touch()
        assert kind in ("daemon", "server")
        found = find_config("daemon" if kind == "daemon" else "server", None, environ)
        assert found == str(folder / "chunkyd" / name)


def test_none_is_found(tmp_path: Path) -> None:
    """Where there is no config, the error says where it was looked for."""
    with pytest.raises(ConfigError) as caught:
        find_config("daemon", None, {"HOME": str(tmp_path)})
    assert f"{tmp_path}/.config/chunkyd/config.yaml" in str(caught.value)
    assert "/etc/chunkyd/config.yaml" in str(caught.value)
    assert "$CHUNKYD_CONFIG" in str(caught.value)


def test_units_folders(tmp_path: Path) -> None:
    """Under systemd state, socket and data are in the unit's folders; of several the first."""
    environ = {"STATE_DIRECTORY": "/var/lib/chunkyd/ada:/var/lib/more", "RUNTIME_DIRECTORY": "/run/chunkyd/ada"}
    settings = daemon(tmp_path, MINIMAL, environ)
    assert settings.state_dir == "/var/lib/chunkyd/ada"
    assert settings.control.socket == "/run/chunkyd/ada/control.sock"
    assert server(tmp_path, "", {"STATE_DIRECTORY": "/var/lib/x"}).data_dir == "/var/lib/x"


def test_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's daemon keeps to the user's folders."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    environ = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000", "XDG_STATE_HOME": "relative"}
    settings = daemon(tmp_path, MINIMAL, environ)
    assert settings.state_dir == "/home/ada/.local/state/chunkyd"
    assert settings.control.socket == "/run/user/1000/chunkyd/control.sock"
    assert server(tmp_path, "", environ).data_dir == "/home/ada/.local/share/chunky-server"


def test_systems_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's daemon keeps to the system's folders, though root is logged in."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = daemon(tmp_path, MINIMAL, {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"})
    assert settings.state_dir == "/var/lib/chunkyd"
    assert settings.control.socket == "/run/chunkyd/control.sock"
    assert server(tmp_path, "", {}).data_dir == "/var/lib/chunky-server"


def test_token_is_found_in_order(tmp_path: Path) -> None:
    """The named file comes before the unit's credential, that before the variable; white space is cut off."""
    (tmp_path / "mine").write_bytes(b"\xef\xbb\xbf of-the-file\r\n")
    (tmp_path / "token").write_text("of-the-unit\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CHUNKYD_TOKEN": "of-the-variable"}
    assert read_token(Remote("https://h", token_file=str(tmp_path / "mine")), environ) == "of-the-file"
    assert read_token(Remote("https://h"), environ) == "of-the-unit"
    assert read_token(Remote("https://h"), {**environ, "CREDENTIALS_DIRECTORY": "/none"}) == "of-the-variable"
    assert read_token(Remote("https://h"), {"CHUNKYD_TOKEN": ""}) is None
    assert read_token(Remote("https://h"), {}) is None


NO_TOKENS = [b"", b"\n \n", b"hunter2\nhunter3", b"hunter2 x", b"hunter2\xff", b"hunter2\x00", "hünter2".encode()]


@pytest.mark.parametrize("content", NO_TOKENS, ids=range(len(NO_TOKENS)))
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    """A file that does not hold a token alone is refused, and the message shows nothing of it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="token") as caught:
        read_token(Remote("https://h", token_file=str(path)), {})
    assert "nter" not in str(caught.value)


def test_named_token_has_to_be_there(tmp_path: Path) -> None:
    """A token file that is named and cannot be read is a bad config, whatever else holds a token."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(Remote("https://h", token_file=str(tmp_path / "none")), {"CHUNKYD_TOKEN": "t"})
