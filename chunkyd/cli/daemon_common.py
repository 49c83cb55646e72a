"""What the commands of `chunkyd` share: the settings the user means, where they are, and signals before all stands."""

from __future__ import annotations

import os
import signal

from msgspec.structs import replace

from chunkyd.cli.common import Options
from chunkyd.errors import EXIT_DONE
from chunkyd.heap import settle_heap
from chunkyd.open_files import allow_open_files
from chunkyd.settings import DaemonSettings, find_config, load_daemon

_ENOUGH_FILES = 1024
_LEAST_FILES = 128  # one that only watches has two dozen open; some for each upload, and for each who asks


def prepare_process() -> None:
    """Heap and open files; called before anything is loaded, which takes files too, and before a thread begins.

    Raises EnvironmentFailure where the files are too few. Where they run out later, what needs one is tried again, as
    with any other fault of the machine.
    """
    settle_heap()
    allow_open_files(_ENOUGH_FILES, _LEAST_FILES, "chunkyd")


def hear_early_signals() -> None:
    """Called first by what runs until it is stopped; the service takes over as soon as it is there.

    Until then nothing has begun: a stop is a clean end at once, and a reload comes before the settings are read.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(EXIT_DONE))
    signal.signal(signal.SIGHUP, lambda *_: None)


def load(options: Options) -> tuple[DaemonSettings, str]:
    """The settings, and the absolute path of their file."""
    path = os.path.abspath(find_config("daemon", options.config, os.environ))
    settings = load_daemon(path, os.environ)
    if options.verbose:
        settings = replace(settings, log=replace(settings.log, level="debug"))
    return settings, path
