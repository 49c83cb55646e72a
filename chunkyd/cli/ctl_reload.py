"""`chunkyctl reload`: read the configuration again."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json, say
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.errors import EXIT_CONFIG, EXIT_DONE, ChunkyError


@click.command("reload")
@json_option
@pass_options
def reload(options: CtlOptions, as_json: bool) -> int:
    """Read the configuration again; a bad one is refused, and the old settings stay."""
    outcome = client(options).reload()
    if as_json:
        print_json(outcome)
    elif outcome.reloaded:
        click.echo("the new settings are in force")
    if not outcome.reloaded:
        say(f"chunkyctl: the old settings stay: {ChunkyError(outcome.what, mend=outcome.mend)}")
        return EXIT_CONFIG
    if outcome.need_restart:
        say(f"only after a restart: {', '.join(outcome.need_restart)}")
    return EXIT_DONE
