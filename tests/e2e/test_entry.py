"""The installed commands before a program has loaded; what `chunkyd check-config` says of what `run` would refuse."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import BIN

INTERRUPTED = """
import os, signal, sys
from chunkyd.cli import entry

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "chunkyd.cli." + sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
getattr(entry, sys.argv[1])()
"""


@pytest.mark.parametrize("program", ["chunkyd", "chunkyctl", "chunky_server", "chunky"])
def test_interrupted_while_it_loads(program: str) -> None:
    """Ctrl-C while the modules are loaded ends it, and shows nothing."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, program], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("given", [f"{name}: /nowhere/{name}" for name in ("ca_file", "token_file")])
def test_what_run_would_refuse(tmp_path: Path, given: str) -> None:
    """A certificate or a token that is not there makes a configuration bad before the daemon is started."""
    config = tmp_path / "config.yaml"
    server = f'server: {{url: "https://127.0.0.1:9", {given}}}'
    (tmp_path / "outbox").mkdir()
    config.write_text(f"{server}\nstate_dir: {tmp_path}/state\nfolders: [{{path: {tmp_path}/outbox}}]\n")
    said = []
    for command in ("check-config", "run"):
        chunkyd = [str(BIN / "chunkyd"), "--config", str(config), command]
        done = subprocess.run(chunkyd, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 78 and done.stdout == ""
        said.append(done.stderr)
    assert said[0] == said[1] and given.partition(" ")[2] in said[0]
