"""`chunkyctl retry`: try again what failed."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options, refusals
from chunkyd.cli.ctl_complete import complete_job


@click.command("retry")
@click.argument("jobs", type=click.IntRange(0), nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@json_option
@pass_options
def retry(options: CtlOptions, jobs: tuple[int, ...], as_json: bool) -> int:
    """Try these jobs again, or (without arguments) every failed one; waiting ones go at once."""
    outcome = client(options).retry(jobs)
    if as_json:
        print_json(outcome)
        return refusals(outcome)
    click.echo(f"{outcome.changed} to be tried again")
    return refusals(outcome)
