"""The project and its peers, each with a fresh receiver on loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Contender, Receiver
from chunkyd.upload import Uploader, install_lease_handler
from tests.e2e.programs import BIN, Program, Server, free_port, wait_until


@contextmanager
def _chunky(folder: Path, source: Path) -> Iterator[Receiver]:
    server = Server(folder)
    server.start()
    command = [str(BIN / "chunky"), "upload", "--recursive", str(source), "--to", server.url]
    try:
        yield Receiver(server.pid, [*command, "--state", str(folder / "state.sqlite3")], server.files())
    finally:
        server.kill()


@contextmanager
def _chunky_loaded(folder: Path, source: Path) -> Iterator[Receiver]:
    install_lease_handler()  # as the command does
    server = Server(folder)
    server.start()
    (file,) = source.iterdir()

    def upload() -> None:
        Uploader(server.url, str(file), name=f"{source.name}/{file.name}", state=str(folder / "state.sqlite3")).upload()

    try:
        yield Receiver(server.pid, (), server.files(), call=upload)
    finally:
        server.kill()


class _Rsyncd(Program):
    """An rsync daemon with one module that takes everything."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.arrived = folder / "arrived"
        self.arrived.mkdir()
        config = folder / "rsyncd.conf"
        module = f"[in]\npath = {self.arrived}\nread only = no\nuse chroot = no\n"
        if os.geteuid() == 0:  # it would become nobody, who may not write there
            module += "uid = root\ngid = root\n"
        config.write_text(f"port = {self.port}\naddress = 127.0.0.1\nlog file = {folder}/rsyncd.log\n{module}")
        rsync = shutil.which("rsync")
        if rsync is None:
            raise RuntimeError("rsync is not installed: apt-get install rsync, then run this again")
        super().__init__(folder, "rsync", rsync, "--daemon", "--no-detach", f"--config={config}")

    def answers(self) -> bool:
        """Whether it takes connections; it says so itself, since a probing connection would cost it a child."""
        log = self.arrived.parent / "rsyncd.log"
        return log.exists() and "starting" in log.read_text()


@contextmanager
def _rsyncd(folder: Path, source: Path, *options: str) -> Iterator[Receiver]:
    daemon = _Rsyncd(folder)
    daemon.start()
    try:
        wait_until("rsyncd serves", daemon.answers, 15, daemon.text)
        target = f"rsync://127.0.0.1:{daemon.port}/in/"
        yield Receiver(daemon.pid, ["rsync", "-a", *options, str(source), target], daemon.arrived)
    finally:
        daemon.kill()


@contextmanager
def _rsyncd_synced(folder: Path, source: Path) -> Iterator[Receiver]:
    with _rsyncd(folder, source, "--fsync") as receiver:
        yield receiver


CHUNKY = Contender(
    "chunky upload",
    "SHA-256 of the whole at both ends",
    "yes, before the answer",
    _chunky,
    "chunky upload --recursive FOLDER --to URL",
)
CHUNKY_LOADED = Contender(  # of one file
    "chunky upload, without its start-up",
    CHUNKY.verifies,
    CHUNKY.durable,
    _chunky_loaded,
    "Uploader(URL, FILE).upload(), of chunkyd.upload, in a process that has loaded it",
)
RSYNC_SYNCED = Contender(
    "rsync --fsync", "the whole file's checksum", "yes", _rsyncd_synced, "rsync -a --fsync FOLDER rsync://HOST/in/"
)
RSYNC = Contender("rsync", "the whole file's checksum", "no", _rsyncd, "rsync -a FOLDER rsync://HOST/in/")
