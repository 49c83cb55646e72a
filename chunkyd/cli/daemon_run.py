"""`chunkyd run`: the daemon, in the foreground."""

from __future__ import annotations

import os

import click

from chunkyd.cli.common import Options, pass_options
from chunkyd.cli.daemon_common import hear_early_signals, load, prepare_process
from chunkyd.cli.loading import loading


@click.command("run")
@pass_options
def run(options: Options) -> None:
    """Watch and upload until SIGTERM or Ctrl-C; SIGHUP reads the configuration again."""
    hear_early_signals()
    prepare_process()
    with loading():
        from chunkyd import log
        from chunkyd.clock import SystemClock
        from chunkyd.daemon.service import Service

    settings, path = load(options)
    log.configure(settings.log, "chunkyd")
    Service(settings, path, os.environ, SystemClock()).run()
