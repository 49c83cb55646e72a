"""`chunkyctl`: controls a running chunkyd. One file for each command, `ctl_*.py`."""

from __future__ import annotations

import click

from chunkyd.cli.common import program_options, run_command
from chunkyd.cli.ctl_cancel import cancel
from chunkyd.cli.ctl_common import CtlOptions
from chunkyd.cli.ctl_history import history
from chunkyd.cli.ctl_list import list_jobs
from chunkyd.cli.ctl_pause import pause
from chunkyd.cli.ctl_reload import reload
from chunkyd.cli.ctl_rescan import rescan
from chunkyd.cli.ctl_resume import resume
from chunkyd.cli.ctl_retry import retry
from chunkyd.cli.ctl_show import show
from chunkyd.cli.ctl_status import status


@click.group("chunkyctl", context_settings={"help_option_names": ["-h", "--help"]})
@program_options
@click.option("--socket", metavar="PATH", help="The control socket, in place of the configuration's.")
@click.pass_context
def chunkyctl(context: click.Context, config: str | None, verbose: bool, socket: str | None) -> None:
    """Control a running chunkyd.

    Exit codes: 0 done, 1 failed (for some jobs, too), 2 wrong use, 69 chunkyd does not answer, 78 bad configuration.
    """
    context.obj = CtlOptions(config=config, verbose=verbose, socket=socket)


for command in (list_jobs, status, show, pause, resume, retry, cancel, rescan, history, reload):
    chunkyctl.add_command(command)


def main() -> None:
    """The entry point."""
    run_command(chunkyctl, "chunkyctl")
