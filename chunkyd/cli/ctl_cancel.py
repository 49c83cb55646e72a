"""`chunkyctl cancel`: give jobs up."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options, refusals, report
from chunkyd.cli.ctl_complete import complete_job
from chunkyd.control.base import Selection


@click.command("cancel")
@click.argument("jobs", type=click.IntRange(0), nargs=-1, required=True, metavar="JOB...", shell_complete=complete_job)
@json_option
@pass_options
def cancel(options: CtlOptions, jobs: tuple[int, ...], as_json: bool) -> int:
    """Give these jobs up; a file is sent again only when it changes."""
    outcome = client(options).cancel(jobs)
    if as_json:
        print_json(outcome)
        return refusals(outcome)
    return report("cancelled", outcome, Selection(jobs=jobs))
