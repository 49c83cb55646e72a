"""Where things are: paths as they are written in a config, the defaults of units and users, the config itself.

A relative path belongs to the folder the config file is in; `~` is the user's home. From the environment only
absolute paths are taken: the working folder is not the same after going into the background.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from chunkyd import checkpoints
from chunkyd.errors import ConfigError
from chunkyd.settings.document import has_overlay
from chunkyd.settings.reader import Entry, text

SYSTEM_FOLDER = "/etc/chunkyd"
NO_FILE = os.devnull


class Program(msgspec.Struct, frozen=True):
    """How a program's config is found: its file's name, its variables, and which of them are no settings."""

    file: str
    prefix: str
    reserved: frozenset[str]
    variable: str


_OTHERS = frozenset({"CHUNKYD_CONFIG", "CHUNKYD_TOKEN", checkpoints.VARIABLE})
DAEMON = Program("config.yaml", "CHUNKYD_", _OTHERS, "CHUNKYD_CONFIG")
SERVER = Program("server.yaml", "CHUNKY_SERVER_", frozenset({"CHUNKY_SERVER_CONFIG"}), "CHUNKY_SERVER_CONFIG")


def find_config(kind: Literal["daemon", "server"], given: str | None, environ: Mapping[str, str]) -> str:
    """The config file: given, named by the environment, the user's, or the system's; absolute.

    Where there is none, but the environment holds settings, an empty file (`/dev/null`) takes its place.
    """
    program = DAEMON if kind == "daemon" else SERVER
    named = given or environ.get(program.variable)
    if named:
        return os.path.abspath(_expanded(named, environ))
    candidates = [os.path.join(folder, program.file) for folder in (_user_folder(environ), SYSTEM_FOLDER)]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    if has_overlay(program.prefix, program.reserved, environ):
        return NO_FILE
    mend = f"Write one, or name it with --config or ${program.variable}"
    raise ConfigError(f"there is no config file: neither {' nor '.join(candidates)}", mend=mend)


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> str:
    """A folder of the XDG base directories; a relative one counts as unset, as that specification says."""
    folder = environ.get(variable, "")
    return folder if os.path.isabs(folder) else os.path.join(_home(environ), below_home)


def _user_folder(environ: Mapping[str, str]) -> str:
    return os.path.join(_xdg(environ, "XDG_CONFIG_HOME", ".config"), "chunkyd")


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    if path == "~" or path.startswith("~/"):
        return _home(environ) + path[1:]
    return os.path.expanduser(path)


def path_reader(config: str, environ: Mapping[str, str]) -> Callable[[Entry], str]:
    """A reader of paths for the config at this path."""
    folder = os.path.dirname(os.path.abspath(config))

    def read(entry: Entry) -> str:
        path = _expanded(text(entry), environ)
        if path.startswith("~"):
            raise entry.error(f"there is no user {path.partition('/')[0][1:]!r}")
        if not os.path.isabs(path) and (entry.value.from_environment or config == NO_FILE):
            raise entry.error(
                f"{path!r} is not absolute", "Only in a config file may a path be relative, to its folder"
            )
        return _one_slash(os.path.normpath(os.path.join(folder, path)))

    return read


def _one_slash(path: str) -> str:
    """POSIX lets two leading slashes stand; here they are one, or `//srv` and `/srv` would be two places."""
    return "/" + path.lstrip("/")


def _unit_folder(environ: Mapping[str, str], variable: str) -> str | None:
    """A folder systemd made for the unit; of several the first."""
    folder = environ.get(variable, "").partition(":")[0]
    return folder if os.path.isabs(folder) else None


def default_state_dir(environ: Mapping[str, str]) -> str:
    """Where the daemon keeps its jobs."""
    unit = _unit_folder(environ, "STATE_DIRECTORY")
    if unit is not None:
        return unit
    if os.geteuid() == 0:
        return "/var/lib/chunkyd"
    return os.path.join(_xdg(environ, "XDG_STATE_HOME", ".local/state"), "chunkyd")


def default_socket(environ: Mapping[str, str]) -> str:
    """Where the daemon is spoken to."""
    unit = _unit_folder(environ, "RUNTIME_DIRECTORY")
    if unit is not None:
        return os.path.join(unit, "control.sock")
    session = environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and os.path.isabs(session):
        return os.path.join(session, "chunkyd", "control.sock")
    return "/run/chunkyd/control.sock"


def default_data_dir(environ: Mapping[str, str]) -> str:
    """Where the server keeps what it receives."""
    unit = _unit_folder(environ, "STATE_DIRECTORY")
    if unit is not None:
        return unit
    if os.geteuid() == 0:
        return "/var/lib/chunky-server"
    return os.path.join(_xdg(environ, "XDG_DATA_HOME", ".local/share"), "chunky-server")


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, wherever symbolic links lead."""
    real_path, real_folder = _one_slash(os.path.realpath(path)), _one_slash(os.path.realpath(folder))
    return real_path == real_folder or real_path.startswith(real_folder.rstrip("/") + "/")
