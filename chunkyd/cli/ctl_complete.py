"""What a shell is offered on TAB: jobs and folders of the running daemon; nothing where it does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chunkyd.cli.ctl_common import CtlOptions, client
from chunkyd.control.client import ControlClient
from chunkyd.errors import ChunkyError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_job(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Numbers of unfinished and failed jobs, with their files."""
    from click.shell_completion import CompletionItem

    try:
        jobs = _client(context).jobs().jobs
    except ChunkyError:
        return []
    return [CompletionItem(str(job.id), help=job.path) for job in jobs if str(job.id).startswith(incomplete)]


def complete_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the watched folders."""
    from click.shell_completion import CompletionItem

    try:
        folders = _client(context).status().folders
    except ChunkyError:
        return []
    return [CompletionItem(folder.name, help=folder.path) for folder in folders if folder.name.startswith(incomplete)]


def _client(context: click.Context) -> ControlClient:
    """While completing, no program's function has run yet: the options are taken from their parse."""
    given = context.find_root().params
    return client(CtlOptions(config=given.get("config"), verbose=False, socket=given.get("socket")))
