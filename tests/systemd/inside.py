"""Runs inside a mount and PID namespace of its own: a real systemd, in which one of the project's units is started,
used, killed, reloaded and stopped. Prints one JSON object: what was seen. Nothing outside the namespace is changed.

    inside.py FILE UNIT CONFIG PORT    the unit's file; which unit; its file in /etc/chunkyd; the server's port

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
ETC, OUTBOX, RECEIVED = Path("/etc/chunkyd"), Path("/run/outbox"), Path("/run/received")
CONTENT = b"whole and verified" * 100_000


def command(*words: str, check: bool = True) -> str:
    """A command to its end; what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    if check and done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def cover(folder: str) -> None:
    """From now on what is written below this folder goes into this namespace's memory."""
    name = folder.strip("/").replace("/", "-")
    upper, work = f"/run/over/{name}/upper", f"/run/over/{name}/work"
    os.makedirs(upper)
    os.makedirs(work)
    options = f"lowerdir={folder},upperdir={upper},workdir={work}"
    command("mount", "-t", "overlay", "-o", options, "overlay", folder)


def install() -> None:
    """The programs, where every user may run them and no ProtectHome= hides them, as an installation would."""
    sources = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "project": str(REPOSITORY)}
    for name, source in sources.items():
        os.makedirs(f"/run/install/{name}")
        command("mount", "--bind", source, f"/run/install/{name}")
    interpreter = f"/run/install/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("chunkyd", "chunky-server", "chunky"):
        script = Path("/usr/local/bin") / name
        module = name.replace("-", "_")
        script.write_text(
            "#!/bin/sh\n"
            "export PYTHONPATH=/run/install/project:/run/install/packages LD_LIBRARY_PATH=/run/install/python/lib\n"
            f"exec {interpreter} -c 'from chunkyd.cli.{module} import main; main()' \"$@\"\n"
        )
        script.chmod(0o755)


def configure(name: str, port: int) -> None:
    """/etc/chunkyd, and the folders: one that is watched, one for what is received."""
    for folder, mode in ((OUTBOX, 0o777), (RECEIVED, 0o700)):
        folder.mkdir()
        folder.chmod(mode)
    server = {"listen": f"127.0.0.1:{port}", "auth": "open", "limits": {"reserve": "1MiB"}}
    if name != "server.yaml":
        server["data_dir"] = str(RECEIVED)
        folders = [{"path": str(OUTBOX), "settle": "100ms", "after_upload": "delete"}]
        (ETC / name).write_text(json.dumps({"server": {"url": f"http://127.0.0.1:{port}"}, "folders": folders}))
    (ETC / "server.yaml").write_text(json.dumps(server))


def prepare(home: Path, unit: Path) -> None:
    """The machine as it is after an installation: programs, users, folders, unit."""
    command("mount", "--make-rprivate", "/")
    command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("/etc", "/usr/local", "/var/lib"):
        cover(folder)
    Path("/run/systemd/system").mkdir(parents=True)
    install()
    command("systemd-sysusers", str(REPOSITORY / "systemd/sysusers.d/chunkyd.conf"))
    command("systemd-tmpfiles", "--create", str(REPOSITORY / "systemd/tmpfiles.d/chunkyd.conf"))
    units = home / "config/systemd/user"
    units.mkdir(parents=True)
    shutil.copy(unit, units)
    (home / "config/chunkyd").symlink_to(ETC)
    extra = units / f"{unit.name}.d"
    extra.mkdir()
    log = f"append:{home}/unit.log"  # no journal here: what the program says goes into a file
    watchdog = "WatchdogSec=6"  # 60 s is too long for a test to see it fed
    (extra / "test.conf").write_text(f"[Service]\nStandardOutput={log}\nStandardError={log}\n{watchdog}\n")


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
        """Wait for a condition; what was said, where it does not come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"never: {what}\n{self.show()}\n{self.text()}")
            time.sleep(0.1)

    def text(self) -> str:
        """What systemd and the unit have said."""
        return "".join(log.read_text(errors="replace")[-6000:] for log in (self.log, self.said) if log.exists())

    def settled(self) -> bool:
        """Whether it has started, or failed to; just after the wish it may still be inactive."""
        return self.show()["ActiveState"] in ("active", "failed")

    def fed(self) -> int:
        """When the watchdog was fed last."""
        return int(self.systemctl("show", "-p", "WatchdogTimestampMonotonic", "--value", self.unit) or 0)

    def active(self, beside: str = "0") -> bool:
        """Whether it is running, as another process than `beside`."""
        seen = self.show()
        return seen["ActiveState"] == "active" and seen["MainPID"] not in ("0", beside)


def use_server(manager: Manager, port: int) -> None:
    """A file is sent to the unit."""
    source = Path("/run/film.mov")
    source.write_bytes(CONTENT)
    command("chunky", "upload", str(source), "--to", f"http://127.0.0.1:{port}")


def use_daemon(manager: Manager) -> None:
    """A file of the unit's user is dropped into its folder: it arrives, and is deleted where it was."""
    owner = os.stat(f"/proc/{manager.show()['MainPID']}").st_uid
    source = OUTBOX / ".film.mov"
    source.write_bytes(CONTENT)
    os.chown(source, owner, -1)
    source = source.rename(OUTBOX / "film.mov")
    arrived = RECEIVED / "files/local/outbox/film.mov"
    manager.until("it arrives", lambda: arrived.exists() and arrived.read_bytes() == CONTENT)
    manager.until("it is deleted", lambda: not source.exists())


def scenario(manager: Manager, config: Path, use: Callable[[], None]) -> dict[str, object]:
    """Start, use, kill -9, use, reload, stop; a start with a bad configuration. Everything that is seen, by step."""
    seen: dict[str, object] = {}
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "--no-block", manager.unit)
    manager.until("it starts", manager.settled)
    seen["started"] = started = manager.show()
    if started["ActiveState"] == "active":
        pid = int(started["MainPID"])
        seen["user"] = pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
        use()
        os.kill(pid, signal.SIGKILL)
        manager.until("it comes back after kill -9", lambda: manager.active(beside=str(pid)))
        seen["killed"] = killed = manager.show()
        use()
        for _ in range(2):
            before = manager.fed()
            manager.until("the watchdog is fed", lambda before=before: manager.fed() > before)
        manager.systemctl("reload", manager.unit)
        manager.until("it is active after a reload", manager.active)
        seen["same process after a reload"] = manager.show()["MainPID"] == killed["MainPID"]
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


def main() -> None:
    """The namespace, the manager, the scenario."""
    unit_file, unit, config, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    home = Path(tempfile.mkdtemp(prefix="chunkyd-systemd-"))
    home.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []
    try:
        prepare(home, unit_file)
        configure(config, port)
        manager = Manager(home, unit)
        started.append(manager.process)
        is_server = config == "server.yaml"
        if not is_server:
            started.append(subprocess.Popen(["chunky-server", "--config", str(ETC / "server.yaml"), "run"], stdout=2))
        use = (lambda: use_server(manager, port)) if is_server else (lambda: use_daemon(manager))
        print(json.dumps(scenario(manager, ETC / config, use)))
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
