"""`chunkyctl`: controls a running chunkyd. One file for each command, `ctl_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.commands import Commands
from chunkyd.cli.common import program_options, run_command
from chunkyd.cli.ctl_common import CtlOptions

_HOMES = {
    "cancel": "ctl_cancel:cancel",
    "history": "ctl_history:history",
    "list": "ctl_list:list_jobs",
    "pause": "ctl_pause:pause",
    "reload": "ctl_reload:reload",
    "rescan": "ctl_rescan:rescan",
    "resume": "ctl_resume:resume",
    "retry": "ctl_retry:retry",
    "show": "ctl_show:show",
    "status": "ctl_status:status",
}


@click.group("chunkyctl", Commands, homes=_HOMES, context_settings={"help_option_names": ["-h", "--help"]})
@program_options
@click.option("--socket", metavar="PATH", help="The control socket, in place of the configuration's.")
@click.pass_context
def chunkyctl(context: click.Context, config: str | None, verbose: bool, socket: str | None) -> None:
    """Control a running chunkyd.

    Exit codes: 0 done, 1 failed (for some jobs, too), 2 wrong use, 69 chunkyd does not answer, 78 bad configuration.
    """
    context.obj = CtlOptions(config=config, verbose=verbose, socket=socket)


def main() -> None:
    """The entry point."""
    run_command(chunkyctl, "chunkyctl")
