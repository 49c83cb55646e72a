"""The environment over the file, and alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.errors import ConfigError
from chunkyd.settings import Folder, Move, find_config, load_daemon, load_server

from .helpers import MINIMAL, daemon, refusal, server

ALONE = {"CHUNKYD_SERVER__URL": "https://h", "CHUNKYD_FOLDERS": "[{path: /srv/a}]"}


def test_environment_alone(tmp_path: Path) -> None:
    """A container needs no file: the environment can say everything."""
    environ = {**ALONE, "HOME": str(tmp_path), "CHUNKYD_UPLOADS__RETRY__ATTEMPTS": "9", "CHUNKYD_STATE_DIR": "/state"}
    settings = load_daemon(find_config("daemon", None, environ), environ)
    assert settings.folders == (Folder("/srv/a", "a"),)
    assert settings.uploads.retry.attempts == 9
    assert settings.state_dir == "/state"
    environ = {"CHUNKY_SERVER_LISTEN": "[::]:1", "HOME": str(tmp_path)}
    assert load_server(find_config("server", None, environ), environ).host == "::"


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable replaces what the file says about its key, and nothing else."""
    text = MINIMAL + "uploads: {workers: 3, parallel_chunks: 5}\n"
    settings = daemon(tmp_path, text, {"CHUNKYD_UPLOADS__WORKERS": "7"})
    assert (settings.uploads.workers, settings.uploads.parallel_chunks) == (7, 5)
    settings = daemon(tmp_path, text, {"CHUNKYD_FOLDERS": "[{path: /srv/b}]"})
    assert [folder.path for folder in settings.folders] == ["/srv/b"]
    settings = daemon(tmp_path, text, {"CHUNKYD_UPLOADS": "{workers: 8}", "CHUNKYD_UPLOADS__VERIFY": "always"})
    assert (settings.uploads.workers, settings.uploads.parallel_chunks, settings.uploads.verify) == (8, 4, "always")


def test_one_value_is_taken_as_it_is(tmp_path: Path) -> None:
    """What takes one value needs no YAML quoting in the environment."""
    environ = {
        "CHUNKYD_UPLOADS__BANDWIDTH": "08:00,2MiB/s sun-00:00,pause",
        "CHUNKYD_STATE_DIR": "/a: b #c",
        "CHUNKYD_CONTROL__GROUP": "*",
    }
    settings = daemon(tmp_path, MINIMAL, environ)
    assert settings.state_dir == "/a: b #c"
    assert settings.control.group == "*"
    assert len(settings.uploads.bandwidth.slots) == 8


def test_lists_and_maps_are_yaml(tmp_path: Path) -> None:
    """What takes a list or a map reads YAML, or JSON."""
    environ = {"CHUNKYD_FOLDERS": '[{"path": "/a", "include": ["*.mov"], "after_upload": {"move": "/b"}}]'}
    assert daemon(tmp_path, MINIMAL, environ).folders == (Folder("/a", "a", ("*.mov",), after_upload=Move("/b")),)
    environ = {"CHUNKY_SERVER_LIMITS__PER_USER": "{cam1: 1GiB}", "CHUNKY_SERVER_TRUSTED_PROXIES": "[10.0.0.1]"}
    settings = server(tmp_path, "", environ)
    assert settings.limits.per_user == {"cam1": 1 << 30}
    assert settings.trusted_proxies == ("10.0.0.1",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("CHUNKYD_UPLOADS__WORKERZ", "7", "$CHUNKYD_UPLOADS__WORKERZ: uploads.workerz: unknown key; did you mean"),
        ("CHUNKYD_FOLDER", "x", "$CHUNKYD_FOLDER: folder: unknown key; did you mean 'folders'?"),
        ("CHUNKYD_UPLOADS__WORKERS", "lots", "$CHUNKYD_UPLOADS__WORKERS: uploads.workers: takes a whole number"),
        ("CHUNKYD_FOLDERS", "[{path: a}]", "$CHUNKYD_FOLDERS: folders[0].path: 'a' is not absolute"),
        ("CHUNKYD_FOLDERS", "[{path: *x}]", "$CHUNKYD_FOLDERS: not YAML: found undefined alias"),
        ("CHUNKYD_FOLDERS", "/srv/a", "$CHUNKYD_FOLDERS: folders: takes a list"),
        ("CHUNKYD_FOLDERS__0__PATH", "/a", "$CHUNKYD_FOLDERS__0__PATH: there is no map"),
        ("CHUNKYD_SERVER__URL__HOST", "h", "$CHUNKYD_SERVER__URL__HOST: there is no map"),
        ("CHUNKYD_LOG", "debug", "$CHUNKYD_LOG: log: takes a map"),
        ("CHUNKYD_STATE_DIR", "state", "$CHUNKYD_STATE_DIR: state_dir: 'state' is not absolute"),
        ("CHUNKYD_SERVER__TOKEN", "hunter2", "$CHUNKYD_SERVER__TOKEN: server.token: unknown key; did you mean"),
    ],
)
def test_mistakes_name_the_variable(tmp_path: Path, name: str, text: str, message: str) -> None:
    """A mistake in the environment is refused like one in the file, with the variable in place of the line."""
    said = refusal(tmp_path, MINIMAL, {name: text})
    assert said.startswith(message)
    assert "hunter2" not in said


def test_not_every_variable_is_a_setting(tmp_path: Path) -> None:
    """The config's name, the token, empty variables and what Kubernetes sets for a service of our name are none."""
    environ = {
        "CHUNKYD_CONFIG": "/x",
        "CHUNKYD_TOKEN": "t",
        "CHUNKYD_SERVER__PROXY": "",
        "CHUNKYD_SERVICE_HOST": "10.0.0.1",
        "CHUNKYD_SERVICE_PORT_HTTP": "80",
        "CHUNKYD_PORT": "tcp://10.0.0.1:80",
        "CHUNKYD_PORT_8420_TCP_ADDR": "10.0.0.1",
        "CHUNKY_SERVER_PORT": "tcp://10.0.0.1:80",
        "PATH": "/bin",
    }
    assert daemon(tmp_path, MINIMAL, environ) == daemon(tmp_path, MINIMAL)
    assert server(tmp_path, "", environ) == server(tmp_path, "")


def test_stray_variables_are_no_config(tmp_path: Path) -> None:
    """Variables that are no settings do not make up for a config that is missing."""
    environ = {"HOME": str(tmp_path), "CHUNKYD_TOKEN": "t", "CHUNKYD_PORT": "tcp://10.0.0.1:80"}
    with pytest.raises(ConfigError, match="there is no config file"):
        find_config("daemon", None, environ)
