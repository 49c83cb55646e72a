"""Whole trees of real files, brought in every way a tree comes: what arrives is the same, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.programs import Daemon, Server, running, tree, wait_until

MOST_FILES = 150


def real_tree(folder: Path) -> Path:
    """Copies of some of this Python's own packages: many small files, some bigger, deep folders."""
    source = Path(sysconfig.get_paths()["stdlib"])
    root = folder / "real"
    count = 0
    for package in ("json", "email", "asyncio", "importlib", "encodings"):
        for path in sorted((source / package).rglob("*.py")):
            if count < MOST_FILES:
                copy = root / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
                count += 1
    return root


def by_copying(real: Path, box: Path) -> None:
    """cp -a."""
    subprocess.run(["cp", "-a", real, box / "arrived"], check=True)


def by_unpacking(real: Path, box: Path) -> None:
    """tar x."""
    archive = real.parent / "real.tar"
    subprocess.run(["tar", "cf", archive, "-C", real, "."], check=True)
    (box / "arrived").mkdir()
    subprocess.run(["tar", "xf", archive, "-C", box / "arrived"], check=True)


def by_moving(real: Path, box: Path) -> None:
    """mv of the whole tree: one event for all of it."""
    shutil.copytree(real, real.parent / "copy", copy_function=shutil.copy2)
    os.rename(real.parent / "copy", box / "arrived")


def by_rsync(real: Path, box: Path) -> None:
    """rsync: each file under a temporary name first; run twice, the second time with a change."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    subprocess.run(["rsync", "-a", f"{real}/", box / "arrived"], check=True)
    (real / "json" / "decoder.py").write_bytes(b"# another version\n" * 1000)
    subprocess.run(["rsync", "-a", "--delay-updates", f"{real}/", box / "arrived"], check=True)


def by_an_editor(real: Path, box: Path) -> None:
    """Each file as vim saves it: a backup by rename, a new file under the old name, the backup deleted."""
    by_copying(real, box)
    for path in sorted((box / "arrived" / "json").iterdir()):
        backup = path.with_name(f"{path.name}~")
        path.rename(backup)
        path.write_bytes(b"# edited\n" + backup.read_bytes())
        backup.unlink()


@pytest.mark.parametrize("bring", [by_copying, by_unpacking, by_moving, by_rsync, by_an_editor])
def test_a_tree_of_real_files(tmp_path: Path, bring: Callable[[Path, Path], None]) -> None:
    """The same names, bytes, modes and times are at the server; nothing else is, and no job is left."""
    box = tmp_path / "outbox"
    box.mkdir()
    real = real_tree(tmp_path)
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        bring(real, box)
        arrived = server.files() / "outbox"
        expected = tree(box)
        assert len(expected) > MOST_FILES * 0.9
        wait_until("all is there", lambda: tree(arrived) == expected, 60, daemon.text)
        daemon.wait_idle()
        assert tree(arrived) == expected
        assert list((server.data / "partial").iterdir()) == []
