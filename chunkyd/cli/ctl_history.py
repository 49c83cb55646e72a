"""`chunkyctl history`: what has been done."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json, say
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.cli.ctl_complete import complete_folder
from chunkyd.cli.ctl_offline import offline_history, or_offline
from chunkyd.cli.ctl_table import print_table, size, state
from chunkyd.control.base import LARGEST_PAGE, HistoryPage


@click.command("history")
@click.option("--folder", help="Only of this folder.", shell_complete=complete_folder)
@click.option(
    "--limit", type=click.IntRange(1, LARGEST_PAGE), default=100, show_default=True, help="No more than these."
)
@click.option("--after", type=click.IntRange(0), help="Go on where an earlier page ended.")
@json_option
@pass_options
def history(options: CtlOptions, folder: str | None, limit: int, after: int | None, as_json: bool) -> None:
    """Finished jobs, newest first; from the job table where chunkyd is not running."""
    page = or_offline(
        lambda: client(options).history(limit, after, folder), lambda: offline_history(options, limit, after, folder)
    )
    if as_json:
        print_json(page)
    else:
        _print(page)


def _print(page: HistoryPage) -> None:
    if not page.jobs:
        click.echo("nothing was done yet")
        return
    rows = [
        (str(job.id), job.finished or "", state(job), size(job.bytes_total), f"{job.folder}/{job.path}")
        for job in page.jobs
    ]
    print_table(("JOB", "FINISHED", "STATE", "SIZE", "FILE"), rows)
    if page.next is not None:
        say(f"there are more: chunkyctl history --after {page.next}")
