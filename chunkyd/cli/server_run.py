"""`chunky-server run`: the server itself, in the foreground."""

from __future__ import annotations

import click
from msgspec.structs import replace

from chunkyd.cli.loading import loading
from chunkyd.cli.server_common import Options, load, pass_options
from chunkyd.errors import EnvironmentFailure


@click.command("run")
@pass_options
def run(options: Options) -> None:
    """Receive files until SIGTERM or Ctrl-C."""
    import logging

    from chunkyd import log

    settings = load(options)
    if options.verbose:
        settings = replace(settings, log=replace(settings.log, level="debug"))
    log.configure(settings.log, "chunky-server")
    scheme = "https" if settings.tls else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host

    def ready(port: int) -> None:
        where = f"listening on {scheme}://{host}:{port}"
        try:
            click.echo(where)
        except (EnvironmentFailure, BrokenPipeError):  # a full disk under stdout, or no reader: no reason to stop
            logging.getLogger("chunkyd.server").info(where)

    with loading():
        from chunkyd.heap import settle_heap

        settle_heap()
        from chunkyd.server.start import serve

    serve(settings, ready=ready)
