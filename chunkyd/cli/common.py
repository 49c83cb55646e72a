"""What every program's command line shares: options, exit codes, errors as people read them, JSON.

A ChunkyError becomes one message on stderr and its exit code; anything else is a bug and shows its trace.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

import click
import msgspec

from chunkyd import __version__, checkpoints
from chunkyd.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ChunkyError, EnvironmentFailure
from chunkyd.protocol.documents import encode

config_option = click.option("--config", metavar="FILE", help="The configuration file, in place of the usual ones.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
version_option = click.version_option(__version__, message="%(prog)s %(version)s")


Function = TypeVar("Function", bound=Callable[..., object])


class Options(msgspec.Struct, frozen=True):
    """What stands before the command: which configuration, and whether to say more."""

    config: str | None
    verbose: bool


pass_options = click.make_pass_decorator(Options)


def program_options(function: Function) -> Function:
    """--config, --verbose and --version on a program, before its commands."""
    return config_option(verbose_option(version_option(function)))


def keep_options(context: click.Context, config: str | None, verbose: bool) -> None:
    """Hand the program's options to its commands, which take them with `pass_options`."""
    context.obj = Options(config, verbose)


def run_command(command: click.Command, program: str | None = None, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a program's command line and exit. A command returns its exit code, or None for 0."""
    sys.exit(_exit_code(command, program or command.name or "chunkyd", arguments))


def _exit_code(command: click.Command, program: str, arguments: Sequence[str] | None) -> int:
    try:
        _mend_streams()
        checkpoints.arm(os.environ)
        code = command.main(arguments, program, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("stopped")
        return EXIT_INTERRUPTED
    except ChunkyError as error:
        say(f"{program}: {error}")
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has left, `head` for one
        _give_up_stdout()
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_DONE


class _Output(io.TextIOWrapper):
    """A stdout whose failures are messages, whoever writes; BrokenPipeError stays: it needs none."""

    def write(self, text: str) -> int:
        with _output_errors():
            return super().write(text)

    def flush(self) -> None:
        with _output_errors():
            super().flush()


@contextlib.contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        what = f"standard output cannot be written: {os.strerror(error.errno or 0)}"
        raise EnvironmentFailure(what, mend="Run the same command again.") from error


def _mend_streams() -> None:
    """Streams that no text can break: a closed one leads nowhere, and what an encoding lacks is escaped."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file of ours would become 1 or 2
        pass
    os.close(descriptor)
    if sys.stdout is None or type(sys.stdout) is io.TextIOWrapper:  # else somebody collects it
        encoding = getattr(sys.stdout, "encoding", "utf-8")
        binary = open(1, "wb", closefd=False)  # noqa: SIM115  # open to the end
        sys.stdout = _Output(binary, encoding, "backslashreplace", line_buffering=os.isatty(1))
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _give_up_stdout() -> None:
    """What cannot be written is tried again at the end, for a trace: it goes nowhere instead."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say(text: str) -> None:
    """A message to people on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Text that can be shown: control characters, from a file's name for one, never reach the terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(msgspec.json.format(encode(document), indent=2).decode("utf-8") + "\n")
