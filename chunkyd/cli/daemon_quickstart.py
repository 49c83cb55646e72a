"""`chunkyd quickstart`: a server on loopback and a daemon on one folder; nothing to configure."""

from __future__ import annotations

import os

import click

from chunkyd.cli.common import say
from chunkyd.cli.daemon_common import hear_early_signals, prepare_process
from chunkyd.settings import Log


@click.command("quickstart")
@click.argument("folder", default="./outbox", metavar="[DIR]")
@click.option("--port", default=8420, show_default=True, help="The server's port; another free one where it is taken.")
def quickstart(folder: str, port: int) -> None:
    """Try it: what is copied into DIR (./outbox) arrives in ./received. Ctrl-C ends it; the same again goes on."""
    hear_early_signals()
    prepare_process()
    from chunkyd import log

    log.configure(Log(level="warning"), "chunkyd")
    from chunkyd.cli.quickstart_display import Display
    from chunkyd.cli.quickstart_parts import EmbeddedServer, refuse_second, write_settings
    from chunkyd.clock import SystemClock
    from chunkyd.daemon.service import Service
    from chunkyd.settings import load_daemon

    refuse_second(os.getcwd())
    parts = write_settings(os.path.abspath(folder), os.getcwd(), port)
    settings = load_daemon(parts.daemon_config, os.environ)
    service = Service(settings, parts.daemon_config, os.environ, SystemClock())  # first: from here on it hears Ctrl-C
    with EmbeddedServer(parts):
        click.echo(parts.welcome(), err=True)
        with Display(service.engine):
            service.run()
    say("stopped; the same command goes on where it was")
