"""`chunkyctl rescan`: look through folders now."""

from __future__ import annotations

import math

import click

from chunkyd.cli.common import json_option, print_json, say, visible
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.cli.ctl_complete import complete_folder
from chunkyd.control.base import LONGEST_WAIT
from chunkyd.errors import EXIT_DONE, EXIT_FAILED, UsageError


@click.command("rescan")
@click.argument("folder", required=False, shell_complete=complete_folder)
@click.option("--wait", is_flag=True, help="Come back when it is done.")
@click.option(
    "--timeout", type=click.FloatRange(0, LONGEST_WAIT), default=600.0, show_default=True, help="Seconds, with --wait."
)
@json_option
@pass_options
def rescan(options: CtlOptions, folder: str | None, wait: bool, timeout: float, as_json: bool) -> int:
    """Look through a folder, or all, for what changed unseen."""
    if math.isnan(timeout):  # neither less than the least nor more than the most
        raise UsageError("--timeout is a number of seconds, not nan")
    outcome = client(options).rescan(folder, wait=wait, timeout=timeout)
    if as_json:
        print_json(outcome)
    else:
        did = "looked through" if outcome.finished else "looking through"
        click.echo(visible(f"{did} {', '.join(outcome.folders) or 'nothing: there are no folders'}"))
    if wait and not outcome.finished:
        say("not done: the time was over, a folder is not there, or chunkyd has stopped; see `chunkyctl status`")
        return EXIT_FAILED
    return EXIT_DONE
