"""`chunkyctl resume`: let go on what was paused."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options, refusals, report
from chunkyd.cli.ctl_complete import complete_folder, complete_job
from chunkyd.control.base import Selection


@click.command("resume")
@click.argument("jobs", type=click.IntRange(0), nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--folder", help="All of this folder.", shell_complete=complete_folder)
@json_option
@pass_options
def resume(options: CtlOptions, jobs: tuple[int, ...], folder: str | None, as_json: bool) -> int:
    """Let these jobs, a folder, or (without arguments) everything go on."""
    selection = Selection(jobs=jobs, folder=folder)
    outcome = client(options).resume(selection)
    if as_json:
        print_json(outcome)
        return refusals(outcome)
    return report("resumed", outcome, selection)
