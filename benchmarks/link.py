"""A wide-area link: 50 ms there and back, packets lost; parallel chunks beside one tus stream.

The link is wanem.c between two network namespaces, which are made here and removed at the end. Both ends use cubic
(cubic.c), the congestion control that most machines have. It takes root, /dev/net/tun, ip and gcc.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from benchmarks.contenders import CHUNKY
from benchmarks.harness import MEBIBYTE, Contender, Receiver, Runs, at_hand, in_pairs, random_file
from benchmarks.peers import TUS_JS, Place, serving, tus_js
from benchmarks.rows import Chart, Findings, Goal, Peer, Row, Series, at_least_of_peer, row
from tests.e2e.programs import BIN, Program, wait_until
from tests.e2e.programs import run as run_program

TITLE = "A wide-area link"
ABOUT = (
    "16 MiB over a link of 100 Mbit/s with 50 ms there and back and 1 % of the packets lost each way, cubic at both "
    "ends. Between two network namespaces."
)
DELAY_MILLISECONDS = 25  # each way
LOSS = 1.0  # percent, each way
RATE_MBIT, QUEUE = 100, 1000  # a thousand packets: what 100 Mbit/s carries in 120 ms
LEAST = 3.0
LOSSES = (0.0, 0.1, 0.3)  # of the chart, beside LOSS
NEAR, FAR = "10.9.0.1", "10.9.0.2"
PORT = 8420


class Link:
    """Two namespaces and the program between them; `loss` in percent each way."""

    def __init__(self, work: Path, loss: float) -> None:
        names = [f"chunky-{side}-{os.getpid()}" for side in ("near", "far")]
        self.near, self.far = names
        command = [self.near, NEAR, self.far, FAR, DELAY_MILLISECONDS, loss, RATE_MBIT, QUEUE]
        self._wire = Program(work, "wanem", str(work / "wanem"), *map(str, command))
        self._cubic = work / "cubic.so"

    @property
    def place(self) -> Place:
        """The two ends."""
        enter, cubic = (str(shutil.which("ip")), "netns", "exec"), ("env", f"LD_PRELOAD={self._cubic}")
        return Place((*enter, self.near, *cubic), (*enter, self.far, *cubic), FAR)

    def __enter__(self) -> Place:
        try:
            for name in (self.near, self.far):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            self._wire.begin()
            wait_until("the link is up", self._up, 15, self._wire.text)
        except BaseException:
            self._remove()
            raise
        return self.place

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _up(self) -> bool:
        asked = [("ip", "-n", name, "-o", "link", "show", "dev", "wan0", "up") for name in (self.near, self.far)]
        return all(subprocess.run(each, capture_output=True, timeout=20, check=False).stdout for each in asked)

    def _remove(self) -> None:
        self._wire.kill()
        for name in (self.near, self.far):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """The chart's other points once: a run takes most of a minute. When quick one pair, 2 MiB and no chart."""
    lacking = _lacks()
    if lacking:
        return Findings(rows=(), missing=(lacking,))
    _, missing = at_hand([TUS_JS])
    _compile("wanem.c", work / "wanem")
    _compile("cubic.c", work / "cubic.so", "-shared", "-fPIC")
    source = work / "source"
    source.mkdir()
    size = (2 if quick else 16) * MEBIBYTE
    random_file(source / "file.bin", size)
    lossy = _at(work, source, LOSS, 1 if quick else pairs)
    ours, *others = lossy
    peer = others[0] if others else None
    rows = [_speed(ours, size, peer, at_least_of_peer(LEAST)), *(_speed(each, size) for each in others)]
    return Findings(rows=tuple(rows), missing=missing, charts=() if quick else (_chart(work, source, size, lossy),))


def _at(work: Path, source: Path, loss: float, times: int) -> list[Runs]:
    """All contenders in turn over one link."""
    with Link(work, loss) as place:
        return in_pairs(_contenders(place), source, work, times)


def _speed(runs: Runs, size: int, peer: Runs | None = None, goal: Goal | None = None) -> Row:
    """Mbit/s from the start of the program to its end."""
    speeds = [8 * size / 1e6 / run.wall for run in runs.runs]
    compared = _speed(peer, size) if peer is not None else None
    return row(
        runs.contender.name,
        "Mbit/s",
        speeds,
        goal=goal,
        peer=Peer(name=compared.name, figure=compared.figure) if compared is not None else None,
        verifies=runs.contender.verifies,
        durable=runs.contender.durable,
        command=runs.contender.command,
    )


def _chart(work: Path, source: Path, size: int, lossy: list[Runs]) -> Chart:
    found = {**{loss: _at(work, source, loss, 1) for loss in LOSSES}, LOSS: lossy}
    series = []
    for number, each in enumerate(lossy):
        points = tuple((loss, _speed(runs[number], size).figure) for loss, runs in found.items())
        series.append(Series(each.contender.name, points))
    return Chart(
        name="performance-link",
        title="16 MiB at 50 ms and 100 Mbit/s",
        across="packets lost each way, %",
        up="Mbit/s",
        series=tuple(series),
    )


def _contenders(place: Place) -> list[Contender[Receiver]]:
    ours = Contender("chunky upload", CHUNKY.verifies, CHUNKY.durable, _chunky(place), CHUNKY.command)
    one_stream = replace(TUS_JS, receiver=tus_js(place), command="tus-js-client, one stream")
    return at_hand([ours, one_stream])[0]


def _chunky(place: Place) -> Callable[[Path, Path], AbstractContextManager[Receiver]]:
    """chunky upload to a server that is on no loopback: with a token, and plain HTTP allowed."""

    @contextmanager
    def receiver(folder: Path, source: Path) -> Iterator[Receiver]:
        data, url = folder / "server-data", f"http://{place.host}:{PORT}"
        settings, client = folder / "server.yaml", folder / "client.yaml"
        settings.write_text(yaml.safe_dump({"listen": f"{place.host}:{PORT}", "data_dir": str(data)}))
        added = run_program("chunky-server", "--config", str(settings), "user", "add", "alice")
        (folder / "token").write_text(added.splitlines()[-1])
        remote = {"url": url, "token_file": str(folder / "token"), "allow_plain": True}
        client.write_text(yaml.safe_dump({"server": remote, "folders": [{"path": str(source)}]}))
        server = (*place.far, str(BIN / "chunky-server"), "--config", str(settings), "run")
        command = [*place.near, str(BIN / "chunky"), "upload", "--recursive", str(source), "--to", url]
        command += ["--config", str(client), "--state", str(folder / "state.sqlite3")]
        program = Program(folder, "server", *server)
        with serving(program, "listening on http"):
            yield Receiver(program.pid, command, data / "files" / "alice")

    return receiver


def _lacks() -> str:
    """What is not there for a link, in a sentence."""
    if os.geteuid() != 0:
        return "the whole benchmark: it makes network namespaces, and so needs root"
    absent = [name for name in ("ip", "gcc") if shutil.which(name) is None]
    if not Path("/dev/net/tun").exists():
        absent.append("/dev/net/tun")
    return f"the whole benchmark: it needs {', '.join(absent)}" if absent else ""


def _compile(source: str, target: Path, *options: str) -> None:
    command = ["gcc", "-O2", *options, str(Path(__file__).parent / source), "-o", str(target)]
    subprocess.run(command, check=True, timeout=120)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
