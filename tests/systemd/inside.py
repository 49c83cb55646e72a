"""Runs inside a mount and PID namespace of its own: a real systemd, in which one of the project's units is started,
killed, reloaded and stopped. Prints one JSON object: what was seen. Nothing outside the namespace is changed.

    inside.py FILE CONFIG UNIT NAME    the unit's file; what becomes of /etc/chunkyd; which unit; its config's name there

A user's manager run by root: it starts system units, `User=` included, and needs no cgroups of its own as PID 1 would.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHOWN = "ActiveState,SubState,Result,MainPID,NRestarts,StatusText,ExecMainStatus"


def command(*words: str, check: bool = True) -> str:
    """A command to its end; what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    if check and done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def tmpfs(path: str) -> None:
    """An empty folder of this namespace's own."""
    os.makedirs(path, exist_ok=True)
    command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path)


def install() -> None:
    """The programs, where every user may run them and no ProtectHome= hides them, as an installation would."""
    sources = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "project": str(REPOSITORY)}
    for name, source in sources.items():
        os.makedirs(f"/run/install/{name}")
        command("mount", "--bind", source, f"/run/install/{name}")
    interpreter = f"/run/install/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("chunkyd", "chunky-server"):
        script = Path("/usr/local/bin") / name
        module = name.replace("-", "_")
        script.write_text(
            "#!/bin/sh\n"
            "export PYTHONPATH=/run/install/project:/run/install/packages LD_LIBRARY_PATH=/run/install/python/lib\n"
            f"exec {interpreter} -c 'from chunkyd.cli.{module} import main; main()' \"$@\"\n"
        )
        script.chmod(0o755)


def prepare(home: Path, unit: Path, config: Path) -> None:
    """The machine as it is after an installation: programs, users, folders, configuration, unit."""
    command("mount", "--make-rprivate", "/")
    for folder in ("/run", "/etc/chunkyd", "/usr/local/bin"):
        tmpfs(folder)
    (Path("/run/systemd/system")).mkdir(parents=True)
    install()
    for each in config.iterdir():
        shutil.copy(each, "/etc/chunkyd")
    root = home / "root"
    (root / "etc").mkdir(parents=True)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    command("systemd-sysusers", f"--root={root}", str(REPOSITORY / "systemd/sysusers.d/chunkyd.conf"))
    for name in ("passwd", "group"):
        command("mount", "--bind", str(root / "etc" / name), f"/etc/{name}")
    units = home / "config/systemd/user"
    units.mkdir(parents=True)
    shutil.copy(unit, units)
    extra = units / f"{unit.name}.d"
    extra.mkdir()
    # No journal here: what the program says goes into a file.
    (extra / "log.conf").write_text(f"[Service]\nStandardOutput=append:{home}/unit.log\nStandardError=append:{home}/unit.log\n")


class Manager:
    """systemd, and the one unit that is tried."""

    def __init__(self, home: Path, unit: str) -> None:
        self.unit = unit
        self.said = home / "unit.log"
        # With /run as its own, RuntimeDirectory= is where it is for a system unit.
        own = {"HOME": str(home), "XDG_RUNTIME_DIR": "/run", "XDG_CONFIG_HOME": str(home / "config")}
        os.environ.update(own)
        for name in ("NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "DBUS_SESSION_BUS_ADDRESS", "LISTEN_PID"):
            os.environ.pop(name, None)
        self.log = home / "systemd.log"
        with self.log.open("wb") as log:
            # PID 1 has no umask: the notify socket is to be open to units of other users.
            words = ["/lib/systemd/systemd", "--user", "--log-target=console", "--unit=basic.target"]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, umask=0)
        self.until("the manager answers", lambda: self.systemctl("show", "-p", "Version"))

    def systemctl(self, *words: str) -> str:
        """One systemctl; its output."""
        return command("systemctl", "--user", *words, check=False)

    def show(self) -> dict[str, str]:
        """What systemd knows of the unit."""
        lines = self.systemctl("show", "-p", SHOWN, self.unit).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, what: str, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait for a condition; the log, where it does not come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"never: {what}\n{self.show()}\n{self.text()}")
            time.sleep(0.1)

    def text(self) -> str:
        """What systemd and the unit have said."""
        return "".join(log.read_text(errors="replace")[-6000:] for log in (self.log, self.said) if log.exists())

    def settled(self) -> bool:
        """Whether it is neither starting nor stopping."""
        return self.show()["ActiveState"] in ("active", "failed", "inactive")

    def active(self, beside: str = "0") -> bool:
        """Whether it is running, as another process than `beside`."""
        seen = self.show()
        return seen["ActiveState"] == "active" and seen["MainPID"] not in ("0", beside)


def main() -> None:
    """Start, kill -9, reload, stop; then a start with a bad configuration."""
    unit_file, config = map(Path, sys.argv[1:3])
    unit, config_name = sys.argv[3:5]
    home = Path(tempfile.mkdtemp(prefix="chunkyd-systemd-"))
    home.chmod(0o755)
    manager = None
    try:
        prepare(home, unit_file, config)
        manager = Manager(home, unit)
        print(json.dumps(scenario(manager, Path("/etc/chunkyd") / config_name)))
    finally:
        if manager is not None:
            manager.process.kill()
            manager.process.wait()
        shutil.rmtree(home, ignore_errors=True)


def scenario(manager: Manager, config: Path) -> dict[str, object]:
    """Everything that is seen, by step."""
    seen: dict[str, object] = {}
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "--no-block", manager.unit)
    manager.until("it starts", manager.settled)
    seen["started"] = started = manager.show()
    if started["ActiveState"] == "active":
        pid = int(started["MainPID"])
        seen["user"] = pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
        os.kill(pid, signal.SIGKILL)
        manager.until("it comes back after kill -9", lambda: manager.active(beside=str(pid)))
        seen["killed"] = killed = manager.show()
        manager.systemctl("reload", manager.unit)
        manager.until("it is active after a reload", lambda: manager.active())
        seen["reloaded"] = manager.show() | {"same": str(manager.show()["MainPID"] == killed["MainPID"])}
    began = time.monotonic()
    manager.systemctl("stop", manager.unit)
    seen["stop seconds"] = time.monotonic() - began
    seen["stopped"] = manager.show()
    config.write_text("folder: x\n")
    manager.systemctl("start", "--no-block", manager.unit)
    manager.until("it fails", lambda: manager.show()["ActiveState"] == "failed")
    seen["bad configuration"] = manager.show()
    seen["log"] = manager.text()
    return seen


if __name__ == "__main__":
    main()
