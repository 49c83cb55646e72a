"""`chunky-server check-config`: is the configuration good, and what does it come to?"""

from __future__ import annotations

import click

from chunkyd.cli.server_common import Options, load, pass_options


@click.command("check-config")
@pass_options
def check_config(options: Options) -> None:
    """Print the whole effective configuration; exit 78 and say where, if it is bad."""
    from chunkyd.settings.render import render

    click.echo(render(load(options)), nl=False)
