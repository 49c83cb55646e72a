"""`list` and `history` without a daemon: read from its job table, changing nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from chunkyd.cli.common import say
from chunkyd.cli.ctl_common import CtlOptions, settings
from chunkyd.control.base import HistoryPage, JobPage
from chunkyd.control.client import DaemonDown
from chunkyd.errors import ConfigError, EnvironmentFailure, Unreachable, UsageError

if TYPE_CHECKING:
    from chunkyd.jobs.listing import OfflineListing

Page = TypeVar("Page", JobPage, HistoryPage)


def or_offline(ask: Callable[[], Page], read: Callable[[], Page]) -> Page:
    """What the daemon answers; where none runs, what its job table says."""
    try:
        return ask()
    except DaemonDown as down:
        try:
            page = read()
        except (ConfigError, EnvironmentFailure) as error:
            what = f"{down.what}; and its job table cannot be read: {error.what}"
            raise Unreachable(what, mend=error.mend or down.mend) from error
        say(f"{down.what}; this is what its job table says")
        return page


def offline_jobs(
    options: CtlOptions, states: tuple[str, ...], folder: str | None, limit: int, after: int | None
) -> JobPage:
    """As the daemon's `jobs`."""
    from chunkyd.daemon.live import Live
    from chunkyd.daemon.views import job_view
    from chunkyd.jobs.states import State

    unknown = set(states) - set(State)
    if unknown:
        raise UsageError(f"there is no state {', '.join(sorted(unknown))}", mend=f"The states: {', '.join(State)}")
    with contextlib.closing(_listing(options, folder)) as listing:
        found = listing.jobs([State(state) for state in states], folder, limit, after or 0)
    views = tuple(job_view(job, Live()) for job in found)
    return JobPage(jobs=views, next=found[-1].id if len(found) == limit else None)


def offline_history(options: CtlOptions, limit: int, after: int | None, folder: str | None) -> HistoryPage:
    """As the daemon's `history`."""
    from chunkyd.daemon.live import Live
    from chunkyd.daemon.views import job_detail

    with contextlib.closing(_listing(options, folder)) as listing:
        found = listing.history(limit, after, folder)
    details = tuple(job_detail(job, Live()) for job in found)
    return HistoryPage(jobs=details, next=found[-1].finish_number if len(found) == limit else None)


def _listing(options: CtlOptions, folder: str | None) -> OfflineListing:
    """The table of the daemon that did not answer; a socket given by hand may be another daemon's than the config."""
    from chunkyd.clock import SystemClock
    from chunkyd.jobs.checking import JOB_TABLE
    from chunkyd.jobs.listing import OfflineListing
    from chunkyd.jobs.opening import open_readonly

    known = settings(options)
    if options.socket is not None and os.path.realpath(options.socket) != os.path.realpath(known.control.socket):
        raise ConfigError("the configuration is that of another socket", mend="Name the daemon's with --config")
    names = [each.name for each in known.folders]
    if folder is not None and folder not in names:
        raise UsageError(f"there is no folder {folder}", mend=f"The folders: {', '.join(names)}")
    return OfflineListing(open_readonly(os.path.join(known.state_dir, JOB_TABLE)), SystemClock())
