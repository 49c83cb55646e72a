"""Two Syncthings, the one's folder kept like the other's: a peer that watches, as chunkyd does."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import requests

from benchmarks.harness import ended_within
from tests.e2e.programs import Program, free_port, run, wait_until

_QUIET = {  # it talks to nobody but the other one, and its processors are not given away
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "crashReportingEnabled": "false",
    "autoUpgradeIntervalH": "0",
    "urAccepted": "-1",
    "startBrowser": "false",
    "setLowPriority": "false",
    "reconnectionIntervalS": "1",
}


class Syncthing(Program):
    """One end. `folder` is the one it shares."""

    def __init__(self, work: Path, name: str) -> None:
        self._home = work / name
        self._program = shutil.which("syncthing") or "syncthing"
        self.folder = work / f"{name}-folder"
        self.folder.mkdir()
        run(self._program, "generate", f"--home={self._home}", "--no-default-folder", "--skip-port-probing")
        self._config = Xml.parse(self._home / "config.xml")  # noqa: S314 - written by the line before
        device = self._config.find("device")
        assert device is not None
        self.device = device.attrib["id"]
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._gui = f"127.0.0.1:{free_port()}"
        serve = ("serve", f"--home={self._home}", "--no-browser", "--no-restart", "--no-upgrade")
        super().__init__(work, name, self._program, *serve)

    def share(self, other: Syncthing, kind: str, delay: int) -> None:
        """The folder with the other one; `kind` as Syncthing names it, `delay` in whole seconds of quiet."""
        root = self._config.getroot()
        options, defaults = root.find("options"), root.find("defaults/folder")
        assert options is not None and defaults is not None
        for name, value in {**_QUIET, "listenAddress": self.address}.items():
            _set(options, name, value)
        _set(root, "gui/address", self._gui)
        self._key = root.findtext("gui/apikey", "")
        peer = Xml.SubElement(root, "device", {"id": other.device, "name": "other"})
        Xml.SubElement(peer, "address").text = other.address
        folder = copy.deepcopy(defaults)
        folder.attrib |= {"id": "shared", "path": str(self.folder), "type": kind, "fsWatcherDelayS": str(delay)}
        Xml.SubElement(folder, "device", {"id": other.device})
        root.append(folder)
        self._config.write(self._home / "config.xml")

    def connected(self) -> bool:
        """Whether it knows the other one is there, and its own folder."""
        try:
            connections = self._ask("system/connections")["connections"]
            state = self._ask("db/status?folder=shared")["state"]
        except requests.RequestException:
            return False
        return state == "idle" and any(each["connected"] for each in connections.values())

    def _ask(self, what: str) -> Any:
        answer = requests.get(f"http://{self._gui}/rest/{what}", headers={"X-API-Key": self._key}, timeout=5)
        answer.raise_for_status()
        return answer.json()


def _set(element: Xml.Element, path: str, value: str) -> None:
    found = element.find(path)
    assert found is not None, path
    found.text = value


@contextmanager
def two(work: Path, delay: int) -> Iterator[tuple[Syncthing, Syncthing]]:
    """A sender and a receiver that know each other and have nothing to do."""
    sender, receiver = Syncthing(work, "sender"), Syncthing(work, "receiver")
    sender.share(receiver, "sendonly", delay)
    receiver.share(sender, "receiveonly", delay)
    try:
        for each in (receiver, sender):
            each.begin()
        for each in (receiver, sender):
            wait_until("the two are connected", each.connected, 60, each.text)
        yield sender, receiver
    finally:
        for each in (sender, receiver):
            ended_within(each, 30)
