"""`chunky`: send files once, from the command line."""

from __future__ import annotations

import os

import click

from chunkyd.cli.common import config_option, json_option, run_command, verbose_option, version_option
from chunkyd.cli.loading import loading
from chunkyd.errors import UsageError
from chunkyd.settings import parse_rate, parse_size


def _size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    size = _read(parse_size, text)
    if size == 0:
        raise click.BadParameter("a chunk has a byte at least")
    return size


def _rate(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    return _read(parse_rate, text)


def _read(parse: object, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse(text)  # type: ignore[operator,no-any-return]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
@version_option
def chunky() -> None:
    """Send files to a chunky server; interrupted, the same command goes on where it was."""


@chunky.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=bytes))
@click.option("--to", metavar="URL", help="The server; a path in the URL is a folder to publish in.")
@click.option("--recursive", "-r", is_flag=True, help="Send folders, with all that is in them.")
@click.option("--name", metavar="NAME", help="Publish under this name.")
@click.option("--token-file", metavar="FILE", help="Where the token is; else CHUNKYD_TOKEN, else the configuration.")
@click.option("--state", metavar="FILE", help="Where sessions are remembered.")
@click.option("--limit", metavar="RATE", callback=_rate, help="No faster than this, such as 2MiB/s.")
@click.option("--parallel", metavar="N", type=click.IntRange(1, 32), default=4, help="Connections for one file.")
@click.option("--chunk-size", metavar="SIZE", callback=_size, help="A fixed size, such as 8MiB; else it adapts.")
@click.option("--verify-always", is_flag=True, help="Hash even what has not changed since it was hashed.")
@json_option
@config_option
@verbose_option
def upload(files: tuple[bytes, ...], name: str | None, **options: object) -> int:
    """Send files; they arrive whole and verified.

    Exit codes: 0 all sent, 1 some failed, 2 wrong use, 3 interrupted, 69 nobody answers, 78 bad configuration. After
    3 and 69 the same command goes on where it was.
    """
    with loading():
        from chunkyd.cli.chunky_upload import Wanted, upload_files
        from chunkyd.heap import settle_heap

    settle_heap()
    if not all(files):
        raise UsageError("an empty name is no file")
    published = None if name is None else os.fsencode(name)
    import msgspec

    return upload_files(msgspec.convert({"files": files, "name": published, **options}, Wanted), os.environ)


def main() -> None:
    """The entry point."""
    run_command(chunky, "chunky")
