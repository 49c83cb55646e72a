"""`chunkyd once`: one pass over the folders, then exit; for cron."""

from __future__ import annotations

import os

import click

from chunkyd.cli.common import Options, json_option, pass_options, print_json, say
from chunkyd.cli.daemon_common import load, prepare_process
from chunkyd.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNREACHABLE


@click.command("once")
@json_option
@pass_options
def once(options: Options, as_json: bool) -> int:
    """Send what is new, wait for the end, exit: 0 all sent, 1 some failed, 69 the server is away, 3 stopped."""
    prepare_process()
    from chunkyd import log
    from chunkyd.clock import SystemClock
    from chunkyd.daemon.once import run_once

    settings, path = load(options)
    log.configure(settings.log, "chunkyd")
    outcome = run_once(settings, path, os.environ, SystemClock())
    if as_json:
        print_json(outcome)
    else:
        say(f"{outcome.done} sent, {outcome.failed} failed, {outcome.left} left to do")
    if outcome.interrupted:
        return EXIT_INTERRUPTED
    if outcome.unreachable:
        return EXIT_UNREACHABLE
    return EXIT_FAILED if outcome.failed or outcome.left else EXIT_DONE
