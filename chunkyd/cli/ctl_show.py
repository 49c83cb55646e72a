"""`chunkyctl show`: all that is known of one job."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json, visible
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.cli.ctl_complete import complete_job
from chunkyd.cli.ctl_table import progress, size, state
from chunkyd.control.base import JobDetail


@click.command("show")
@click.argument("job", type=click.IntRange(0), shell_complete=complete_job)
@json_option
@pass_options
def show(options: CtlOptions, job: int, as_json: bool) -> None:
    """Where one job stands, what was resumed, and what went wrong."""
    found = client(options).job(job)
    if as_json:
        print_json(found)
        return
    for name, value in _lines(found):
        if value:
            click.echo(f"{name:>12}: {visible(value)}")


def _lines(job: JobDetail) -> list[tuple[str, str]]:
    return [
        ("job", str(job.id)),
        ("file", f"{job.folder}/{job.path}"),
        ("bytes", f"{job.path_bytes} (base64 of the path)" if job.path_bytes else ""),
        ("state", state(job)),
        ("done", progress(job)),
        ("sent", f"{size(job.bytes_sent)} over the network"),
        ("resumed", _resumed(job)),
        ("restarts", f"{job.restarts} new sessions" if job.restarts else ""),
        ("attempts", str(job.attempts)),
        ("next attempt", job.next_attempt or ""),
        ("error", job.error or ""),
        ("size", f"{job.size} bytes"),
        ("modified", job.modified or ""),
        ("hash", job.file_hash or ""),
        ("session", f"{job.session_id}…" if job.session_id else ""),
        ("priority", str(job.priority)),
        ("created", job.created),
        ("updated", job.updated),
        ("finished", job.finished or ""),
    ]


def _resumed(job: JobDetail) -> str:
    if not job.resumed_times:
        return ""
    times = "once" if job.resumed_times == 1 else f"{job.resumed_times} times"
    return times if job.resumed_from is None else f"{times}, last from {size(job.resumed_from)}"
