"""`chunky-server`: receives files. One file for each command, `server_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.commands import Commands
from chunkyd.cli.common import config_option, run_command, verbose_option, version_option
from chunkyd.cli.server_common import Options

_HOMES = {
    "check-config": "server_config:check_config",
    "run": "server_run:run",
    "sessions": "server_sessions:sessions",
    "token": "server_token:token",
    "user": "server_user:user",
    "verify": "server_verify:verify",
}


@click.group("chunky-server", Commands, homes=_HOMES, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@verbose_option
@version_option
@click.pass_context
def server(context: click.Context, config: str | None, verbose: bool) -> None:
    """Receive files: whole, verified, durable."""
    context.obj = Options(config, verbose)


def main() -> None:
    """The entry point."""
    run_command(server, "chunky-server")
