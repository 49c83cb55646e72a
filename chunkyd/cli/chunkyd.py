"""`chunkyd`: the daemon. One file for each command, `daemon_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.commands import Commands
from chunkyd.cli.common import keep_options, program_options, run_command

_HOMES = {
    "check-config": "daemon_config:check_config",
    "once": "daemon_once:once",
    "quickstart": "daemon_quickstart:quickstart",
    "restart": "daemon_detached:restart",
    "run": "daemon_run:run",
    "start": "daemon_detached:start",
    "stop": "daemon_detached:stop",
}


@click.group("chunkyd", Commands, homes=_HOMES, context_settings={"help_option_names": ["-h", "--help"]})
@program_options
@click.pass_context
def daemon(context: click.Context, config: str | None, verbose: bool) -> None:
    """Watch folders; what is dropped there arrives at the server, whole and verified."""
    keep_options(context, config, verbose)


def main() -> None:
    """The entry point."""
    run_command(daemon, "chunkyd")
