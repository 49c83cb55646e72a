"""What the installed commands call. Loads next to nothing itself: Ctrl-C while a program still loads shows no trace."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from chunkyd.cli.loading import loading


def chunkyd() -> None:
    """The daemon's command."""
    _run("chunkyd")


def chunkyctl() -> None:
    """The command that controls it."""
    _run_and_leave("chunkyctl")


def chunky_server() -> None:
    """The server's command."""
    _run("chunky_server")


def chunky() -> None:
    """The one-shot client."""
    _run_and_leave("chunky")


def _run_and_leave(name: str) -> None:
    """It leaves nothing to be ended, and is gone with its last word: to take apart what was loaded takes a while."""
    try:
        _run(name)
    except SystemExit as end:
        assert isinstance(end.code, int)
        sys.stderr.flush()
        os._exit(end.code)


def _run(name: str) -> None:
    """Until the program can say something itself, Ctrl-C just ends it; whoever had it ignored goes on ignoring it."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with loading():
        main = import_module(f"chunkyd.cli.{name}").main
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
