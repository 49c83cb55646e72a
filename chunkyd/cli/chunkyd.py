"""`chunkyd`: the daemon. One file for each command, `daemon_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.common import keep_options, program_options, run_command
from chunkyd.cli.daemon_config import check_config
from chunkyd.cli.daemon_detached import restart, start, stop
from chunkyd.cli.daemon_once import once
from chunkyd.cli.daemon_quickstart import quickstart
from chunkyd.cli.daemon_run import run


@click.group("chunkyd", context_settings={"help_option_names": ["-h", "--help"]})
@program_options
@click.pass_context
def daemon(context: click.Context, config: str | None, verbose: bool) -> None:
    """Watch folders; what is dropped there arrives at the server, whole and verified."""
    keep_options(context, config, verbose)


for command in (run, start, stop, restart, check_config, quickstart, once):
    daemon.add_command(command)


def main() -> None:
    """The entry point."""
    run_command(daemon, "chunkyd")
