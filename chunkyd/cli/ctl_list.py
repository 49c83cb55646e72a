"""`chunkyctl list`: what is still to be done."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json, say
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.cli.ctl_complete import complete_folder
from chunkyd.cli.ctl_offline import offline_jobs, or_offline
from chunkyd.cli.ctl_table import note, print_table, progress, state
from chunkyd.control.base import LARGEST_PAGE, USUAL_PAGE, JobPage


@click.command("list")
@click.option("--state", "states", multiple=True, help="Only jobs in this state; may be given several times.")
@click.option("--folder", help="Only of this folder.", shell_complete=complete_folder)
@click.option("--limit", type=click.IntRange(1, LARGEST_PAGE), default=USUAL_PAGE, show_default=True, help="No more.")
@click.option("--after", type=click.IntRange(0), help="Only jobs after this one.")
@json_option
@pass_options
def list_jobs(
    options: CtlOptions, states: tuple[str, ...], folder: str | None, limit: int, after: int | None, as_json: bool
) -> None:
    """Unfinished and failed jobs, oldest first; from the job table where chunkyd is not running."""
    page = or_offline(
        lambda: client(options).jobs(states, folder, limit, after),
        lambda: offline_jobs(options, states, folder, limit, after),
    )
    if as_json:
        print_json(page)
    else:
        _print(page)


def _print(page: JobPage) -> None:
    if not page.jobs:
        click.echo("nothing to do")
        return
    rows = [(str(job.id), state(job), progress(job), f"{job.folder}/{job.path}", note(job)) for job in page.jobs]
    print_table(("JOB", "STATE", "DONE", "FILE", "NOTE"), rows)
    if page.next is not None:
        say(f"there are more: chunkyctl list --after {page.next}")
