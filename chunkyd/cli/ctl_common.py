"""What the commands of chunkyctl share: which daemon is meant, and how to reach it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from chunkyd.cli.common import Options, say, visible
from chunkyd.control.base import Outcome, Selection
from chunkyd.control.client import ControlClient
from chunkyd.errors import EXIT_DONE, EXIT_FAILED, ChunkyError, ConfigError
from chunkyd.settings import default_socket, find_config, load_control

if TYPE_CHECKING:
    from chunkyd.settings import DaemonSettings

UNIT_CONFIGS = "/etc/chunkyd"
UNIT_FOLDERS = {"RUNTIME_DIRECTORY": "/run/chunkyd", "STATE_DIRECTORY": "/var/lib/chunkyd"}


class CtlOptions(Options, frozen=True):
    """What stands before the command, the socket too."""

    socket: str | None = None


pass_options = click.make_pass_decorator(CtlOptions)


def settings(options: CtlOptions) -> DaemonSettings:
    """The settings of the daemon that is meant; a unit's own folders count as they do for the unit."""
    from chunkyd.settings import load_daemon

    path = find_config("daemon", options.config, os.environ)
    return load_daemon(path, unit_environ(path, os.environ))


def unit_environ(config: str, environ: Mapping[str, str]) -> Mapping[str, str]:
    """`chunkyd@NAME` reads /etc/chunkyd/NAME.yaml and is given folders by systemd: the same defaults from outside."""
    name, extension = os.path.splitext(os.path.basename(config))
    if os.path.dirname(config) != UNIT_CONFIGS or extension != ".yaml":
        return environ
    folders = {variable: os.path.join(folder, name) for variable, folder in UNIT_FOLDERS.items()}
    return {**environ, **folders} if any(map(os.path.isdir, folders.values())) else environ


def client(options: CtlOptions) -> ControlClient:
    """The daemon's: at --socket, else where its configuration says, else where it is without one."""
    path = options.socket or _configured_socket(options)
    if options.verbose:
        say(f"asking {path}")
    return ControlClient(path)


def _configured_socket(options: CtlOptions) -> str:
    """A daemon that still runs with older settings can be asked, whatever is wrong in the configuration by now."""
    socket = _socket_without_settings(options)
    return socket if os.path.exists(socket) else settings(options).control.socket


def _socket_without_settings(options: CtlOptions) -> str:
    try:
        path = find_config("daemon", options.config, os.environ)
        return load_control(path, unit_environ(path, os.environ)).socket
    except ConfigError:
        if options.config is not None:
            raise
        return default_socket(os.environ)


def report(done: str, outcome: Outcome, selection: Selection) -> int:
    """Say what was done to jobs, a folder or everything, job by job where it was not; the exit code."""
    jobs = f"{outcome.changed} {'job' if outcome.changed == 1 else 'jobs'}"
    if selection.folder is not None:
        click.echo(visible(f"folder {selection.folder} {done} ({jobs})"))
    else:
        click.echo(f"{jobs} {done}" if selection.jobs else f"everything {done} ({jobs})")
    return refusals(outcome)


def refusals(outcome: Outcome) -> int:
    """The jobs for which it was not done, on stderr; the exit code."""
    for refusal in outcome.refused:
        say(f"job {refusal.id}: {ChunkyError(refusal.what, mend=refusal.mend)}")
    return EXIT_FAILED if outcome.refused else EXIT_DONE
