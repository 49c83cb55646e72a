"""Certificates of every kind, made by openssl for one test run."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = {names}
"""


class Authority:
    """A certificate authority that lives in a folder; `ca_file` is what its clients trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.ca_file = folder / "ca.pem"
        self._key = folder / "ca.key"
        (folder / "index").write_text("")
        (folder / "serial").write_text("01\n")
        _openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority"
            f" -addext keyUsage=critical,keyCertSign -keyout {self._key} -out {self.ca_file}"
        )

    def certificate(
        self, name: str, names: str = "IP:127.0.0.1,DNS:localhost", first_day: int = -1, last_day: int = 1
    ) -> tuple[Path, Path]:
        """A server's, and its key; valid from and until so many days from now."""
        made, key, request = (self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        config = self._folder / f"{name}.cnf"
        config.write_text(_CONFIG.format(folder=self._folder, names=names))
        _openssl(
            f"req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout {key}"
            f" -out {request}"
        )
        _openssl(
            f"ca -batch -notext -config {config} -extensions server -cert {self.ca_file} -keyfile {self._key}"
            f" -in {request} -out {made} -startdate {_day(first_day)} -enddate {_day(last_day)}"
        )
        return made, key


def _day(days: int) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return moment.strftime("%y%m%d%H%M%SZ")


def _openssl(arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
