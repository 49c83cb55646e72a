"""`chunkyctl status`: the daemon at one glance."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json, visible
from chunkyd.cli.ctl_common import CtlOptions, client, pass_options
from chunkyd.cli.ctl_table import print_table, size
from chunkyd.control.base import FolderView, StatusView


@click.command("status")
@json_option
@pass_options
def status(options: CtlOptions, as_json: bool) -> None:
    """How chunkyd is, what is wrong and what to do about it, and the watched folders."""
    seen = client(options).status()
    if as_json:
        print_json(seen)
    else:
        _print(seen)


def _print(seen: StatusView) -> None:
    _say(f"chunkyd {seen.version} is {seen.state}; process {seen.pid}, since {seen.since}, to {seen.server}")
    _say(f"sending {size(seen.bytes_per_second)}/s of {seen.bandwidth}; jobs: {_counts(seen.jobs)}")
    if seen.held is not None:
        again = f"; next try at {seen.held.next_probe}" if seen.held.next_probe else ""
        _say(
            f"held: {seen.held.reason}: {seen.held.what}{again}"
            if seen.held.what
            else f"held: {seen.held.reason}{again}"
        )
    for problem in seen.problems:
        _say(f"problem: {problem.what}")
        if problem.mend:
            _say(f"   mend: {problem.mend}")
    print_table(("FOLDER", "STATE", "JOBS", "LAST SCAN", "PATH"), map(_row, seen.folders))
    for folder in seen.folders:
        if folder.changing:
            some = ", ".join(folder.changing_paths)
            _say(f"{folder.name}: {folder.changing} still changing: {some}")
        if folder.skipped:
            _say(f"{folder.name}: {folder.skipped} skipped: links, FIFOs, sockets, devices, or unreadable")


def _row(folder: FolderView) -> tuple[str, ...]:
    state = "paused" if folder.paused else folder.state
    return folder.name, state, _counts(folder.jobs), _scan(folder), folder.path


def _scan(folder: FolderView) -> str:
    """The number is the scan's: what came since is among the jobs."""
    if folder.last_scan is None:
        return "not yet"
    return f"{folder.files} {'file' if folder.files == 1 else 'files'} at {folder.last_scan}"


def _counts(jobs: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in jobs.items() if count) or "none"


def _say(text: str) -> None:
    click.echo(visible(text))
