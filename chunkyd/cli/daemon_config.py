"""`chunkyd check-config`: whether the configuration is good, and what it comes to."""

from __future__ import annotations

import os

import click
import msgspec

from chunkyd.cli.common import Options, json_option, pass_options, print_json
from chunkyd.cli.daemon_common import load
from chunkyd.settings import read_token


@click.command("check-config")
@json_option
@pass_options
def check_config(options: Options, as_json: bool) -> None:
    """Check the configuration and print all of it, defaults included."""
    from chunkyd.clock import SystemClock
    from chunkyd.daemon.connection import Connection
    from chunkyd.settings.render import render

    settings, path = load(options)
    token = read_token(settings.server, os.environ)
    Connection(settings.server, os.environ, SystemClock()).client.close()  # a client refuses what it cannot work with
    if as_json:
        print_json({"config": path, "token": token is not None, "settings": msgspec.yaml.decode(render(settings))})
        return
    click.echo(f"# {path} is good; {'a' if token else 'no'} token is set")
    click.echo(render(settings), nl=False)
