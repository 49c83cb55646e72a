"""`chunky-server`: receives files. One file for each command, `server_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.common import config_option, run_command, verbose_option, version_option
from chunkyd.cli.server_common import Options
from chunkyd.cli.server_config import check_config
from chunkyd.cli.server_run import run
from chunkyd.cli.server_sessions import sessions
from chunkyd.cli.server_token import token
from chunkyd.cli.server_user import user
from chunkyd.cli.server_verify import verify


@click.group("chunky-server", context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@verbose_option
@version_option
@click.pass_context
def server(context: click.Context, config: str | None, verbose: bool) -> None:
    """Receive files: whole, verified, durable."""
    context.obj = Options(config, verbose)


for command in (run, check_config, user, token, sessions, verify):
    server.add_command(command)


def main() -> None:
    """The entry point."""
    run_command(server, "chunky-server")
