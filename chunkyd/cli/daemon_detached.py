"""`chunkyd start`, `stop`, `restart`: in the background, for systems without a service manager."""

from __future__ import annotations

import os

import click

from chunkyd.cli.common import Options, pass_options, say
from chunkyd.cli.daemon_common import load, prepare_process
from chunkyd.errors import EXIT_FAILED
from chunkyd.settings import DaemonSettings


@click.command("start")
@pass_options
def start(options: Options) -> None:
    """Begin in the background; its log goes to daemon.log in the state folder."""
    prepare_process()
    _start(*load(options))


@click.command("stop")
@pass_options
def stop(options: Options) -> int | None:
    """End the daemon of this configuration and wait until it has."""
    settings, _ = load(options)
    return None if _stop(settings) else EXIT_FAILED


@click.command("restart")
@pass_options
def restart(options: Options) -> None:
    """End it, if it runs, and begin anew."""
    prepare_process()
    settings, path = load(options)
    _stop(settings)
    _start(settings, path)


def _start(settings: DaemonSettings, path: str) -> None:
    from chunkyd.clock import SystemClock
    from chunkyd.daemon.detach import detach_and_run

    detach_and_run(settings, path, os.environ, SystemClock())


def _stop(settings: DaemonSettings) -> bool:
    from chunkyd.daemon.detach import stop_running

    pid = stop_running(settings.state_dir)
    say(f"stopped (process {pid})" if pid else "it was not running")
    return pid is not None
