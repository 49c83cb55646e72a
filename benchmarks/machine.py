"""Which machine this is, and which versions of what is measured are on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.rows import Machine

PEERS = Path(__file__).parent / ".peers"  # `make bench-peers` puts there what no package of the system has
_ASKED: Mapping[str, tuple[str, ...]] = {
    "rsync": ("rsync", "--version"),
    "nginx": ("nginx", "-v"),
    "curl": ("curl", "--version"),
    "rclone": ("rclone", "version"),
    "Syncthing": ("syncthing", "--version"),
    "node": ("node", "--version"),
    "tuspy": (str(PEERS / "tuspy/bin/python"), "-c", "import importlib.metadata as m; print(m.version('tuspy'))"),
    "tus-js-client": ("node", "-p", f"require('{PEERS}/node_modules/tus-js-client/package.json').version"),
    "@tus/server": (
        "node",
        "-p",
        f"JSON.parse(fs.readFileSync('{PEERS}/node_modules/@tus/server/package.json')).version",
    ),
}


def this_machine(folder: Path) -> Machine:
    """As it is now; `folder` is where the data of the benchmarks go."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    found = {name: _version(command) for name, command in _ASKED.items()}
    return Machine(
        processor=_processor(),
        processors=os.cpu_count() or 1,
        memory=f"{memory:.0f} GiB",
        kernel=platform.release(),
        python=platform.python_version(),
        file_system=_file_system(folder),
        versions={"chunkyd": version("chunkyd"), **{name: text for name, text in found.items() if text}},
    )


def _version(command: tuple[str, ...]) -> str:
    """The first number with a dot that the program says; nothing where it is not installed."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+\.[\w.+-]*\d", said.stdout + said.stderr)
    return found.group() if found else ""


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system: that of the longest mount point above the folder."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(point), kind) for _, point, kind, *_ in mounts if folder.resolve().is_relative_to(point)]
    return max(above)[1] if above else "an unknown file system"
