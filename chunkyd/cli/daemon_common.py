"""What the commands of `chunkyd` share: the settings the user means, and where they are."""

from __future__ import annotations

import os

from msgspec.structs import replace

from chunkyd.cli.common import Options
from chunkyd.settings import DaemonSettings, find_config, load_daemon


def load(options: Options) -> tuple[DaemonSettings, str]:
    """The settings, and the absolute path of their file."""
    path = os.path.abspath(find_config("daemon", options.config, os.environ))
    settings = load_daemon(path, os.environ)
    if options.verbose:
        settings = replace(settings, log=replace(settings.log, level="debug"))
    return settings, path
