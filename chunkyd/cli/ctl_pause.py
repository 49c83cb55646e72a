"""`chunkyctl pause`: hold everything, a folder, or some jobs."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options, refusals, report
from chunkyd.cli.ctl_complete import complete_folder, complete_job
from chunkyd.control.base import Selection


@click.command("pause")
@click.argument("jobs", type=click.IntRange(0), nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--folder", help="All of this folder, what comes later too.", shell_complete=complete_folder)
@json_option
@pass_options
def pause(options: CtlOptions, jobs: tuple[int, ...], folder: str | None, as_json: bool) -> int:
    """Hold these jobs, a folder, or (without arguments) everything, what comes later too; a restart changes nothing."""
    selection = Selection(jobs=jobs, folder=folder)
    outcome = client(options).pause(selection)
    if as_json:
        print_json(outcome)
        return refusals(outcome)
    return report("paused", outcome, selection)
