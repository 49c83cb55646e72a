"""The units: clean for systemd's own check, and really started, used, killed, reloaded and stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import free_port

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
BIN = Path(sys.executable).parent

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def _why_not() -> str:
    """Why no systemd can be started here; empty where it can."""
    if not SYSTEMD.exists() or shutil.which("unshare") is None:
        return "systemd or unshare is not installed"
    if os.geteuid() != 0:
        return "only root may make a mount namespace for a systemd of its own"
    overlay = "mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc"
    mounts = f"mount -t tmpfs tmpfs /run && mkdir /run/upper /run/work && {overlay}"
    namespace = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    tried = subprocess.run([*namespace, mounts], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no mount namespaces here: {tried.stderr.decode().strip()}"


@needs_analyze
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_has_no_complaints(kind: str, tmp_path: Path):
    """`systemd-analyze verify` says nothing at all; its exit code is not asked, it lies."""
    names = []
    for unit in (UNITS / kind).iterdir():
        text = unit.read_text()
        installed = re.sub(
            r"^ExecStart=(chunk\S*)", lambda found: f"ExecStart={BIN / found.group(1)}", text, flags=re.M
        )
        (tmp_path / unit.name).write_text(installed)
        names.append(str(tmp_path / unit.name))
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", f"--{kind}", "verify", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert names
    assert done.stdout + done.stderr == ""


@needs_analyze
@pytest.mark.parametrize(("unit", "worst"), [("chunkyd@.service", 3.0), ("chunky-server.service", 2.0)])
def test_units_stay_hardened(unit: str, worst: float):
    """`systemd-analyze security` finds no more exposure than is explained in the unit."""
    command = ["systemd-analyze", "security", "--offline=yes", str(UNITS / "system" / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found.group(1)) <= worst


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_users_and_folders_are_made(tmp_path: Path):
    """The files of sysusers.d and tmpfiles.d make what the units name."""
    (tmp_path / "etc").mkdir()
    for tool, file in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
        if tool == "tmpfiles" and os.geteuid() != 0:
            continue
        words = [f"systemd-{tool}", f"--root={tmp_path}", *(["--create"] if tool == "tmpfiles" else [])]
        done = subprocess.run([*words, str(UNITS / file / "chunkyd.conf")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    users = (tmp_path / "etc/passwd").read_text()
    named = {re.search(r"^User=(\S+)", unit.read_text(), re.M) for unit in (UNITS / "system").iterdir()}
    for user in {found.group(1) for found in named if found} - {"%i"}:
        assert f"\n{user}:" in "\n" + users
    if os.geteuid() == 0:
        assert (tmp_path / "etc/chunkyd").is_dir()


@pytest.mark.parametrize(
    ("file", "unit", "config", "user"),
    [
        ("system/chunky-server.service", "chunky-server.service", "server.yaml", "chunky-server"),
        ("system/chunkyd@.service", "chunkyd@nobody.service", "nobody.yaml", "nobody"),
        ("user/chunkyd.service", "chunkyd.service", "config.yaml", "root"),
    ],
)
def test_a_real_systemd_runs_the_unit(file: str, unit: str, config: str, user: str):
    """Ready and at work inside its sandbox, back after kill -9, watchdog fed, reloaded as the same process, stopped
    cleanly and in time; a bad configuration is one failure with exit code 78, not a loop.
    """
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    inside = [sys.executable, str(Path(__file__).with_name("inside.py"))]
    namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespace, *inside, str(UNITS / file), unit, config, str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert (seen["started"]["ActiveState"], seen["started"]["SubState"]) == ("active", "running"), seen
    assert seen["started"]["StatusText"]
    assert seen["user"] == user
    assert (seen["killed"]["ActiveState"], seen["killed"]["NRestarts"]) == ("active", "1"), seen
    assert seen["same process after a reload"]
    assert (seen["stopped"]["ActiveState"], seen["stopped"]["Result"]) == ("inactive", "success"), seen
    assert seen["stop seconds"] < 15
    bad = seen["bad configuration"]
    assert (bad["ActiveState"], bad["ExecMainStatus"], bad["NRestarts"]) == ("failed", "78", "0"), seen
