"""Project and peer in turn, in pairs; medians of wall and CPU seconds, and the ratio.

Absolute times drift from run to run on a shared machine; the ratio of two runs side by side drifts far less.
Each run has a receiver of its own that has seen nothing: a server that knows a version already would need no byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import select
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec import structs

from benchmarks.rows import Findings, Goal, Peer, Row, row
from tests.e2e.programs import Daemon, Program

MADV_POPULATE_WRITE = 23
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")
_GET_FLAGS, _SET_FLAGS, _TOP_FOLDER = 0x80086601, 0x40086602, 0x00020000  # ioctl_iflags(2)
FEW = 2
LONGEST_RUN = 600.0  # seconds; a run that takes longer is broken


@dataclass(frozen=True, slots=True)
class Run:
    """What one run cost: seconds by the clock, and of the processors at both ends."""

    wall: float
    client_cpu: float
    receiver_cpu: float


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiving end that serves: its process group, the client's command, and where the files appear.

    `beside`: how names of files end that the receiver keeps there for itself. `call`: what sends in this process, whose
    programs are loaded already, in place of the command.
    """

    group: int
    command: Sequence[str]
    arrived: Path
    beside: str | None = None
    call: Callable[[], object] | None = None


End = TypeVar("End")


@dataclass(frozen=True)
class Contender(Generic[End]):
    """One way to send: what it checks and syncs, and how to start what serves, in an empty folder, for a source.

    `command` is what a person would type. `lacks` says what is not installed for it, or nothing.
    """

    name: str
    verifies: str
    durable: str
    receiver: Callable[[Path, Path], AbstractContextManager[End]]
    command: str = ""
    lacks: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class Runs:
    """One contender's runs over all pairs."""

    contender: Contender[Any]
    runs: tuple[Run, ...]

    def as_peer(self) -> Peer:
        """Its name and its wall seconds, for others to be compared with."""
        return Peer(name=self.contender.name, figure=statistics.median(run.wall for run in self.runs))

    def row(self, size: int, peer: Runs | None = None, goal: Goal | None = None) -> Row:
        """Wall seconds beside the peer's, and processor seconds for each GiB of the `size` bytes sent."""
        walls = [run.wall for run in self.runs]
        compared = peer.as_peer() if peer is not None else None
        found = row(self.contender.name, "s", walls, goal=goal, peer=compared, command=self.contender.command)
        return structs.replace(
            found,
            verifies=self.contender.verifies,
            durable=self.contender.durable,
            sending_cpu=statistics.median(run.client_cpu for run in self.runs) / size * GIBIBYTE,
            receiving_cpu=statistics.median(run.receiver_cpu for run in self.runs) / size * GIBIBYTE,
        )


def prewarm(size: int) -> None:
    """Fault memory in and let it go: a virtual machine's host hands pages out slowly, and the first writer pays.

    As much as a run writes, and no more: the host takes free memory back, and would still be at it during the run.
    """
    pages = mmap.mmap(-1, size)
    pages.madvise(MADV_POPULATE_WRITE)
    pages.close()


def random_file(path: Path, size: int) -> Path:
    """A file nobody can compress; a block of 16 MiB over and over, since random bytes are slow to make."""
    block = os.urandom(16 * MEBIBYTE)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: min(len(block), size - start)])
    return path


def group_cpu(group: int) -> float:
    """Processor seconds of all processes of a group so far, with those of children that have ended."""
    total = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if int(fields[2]) == group:
            total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def settled_start(daemon: Daemon) -> float:
    """Seconds from the start of the program until its control socket takes connections."""
    start = time.monotonic()
    daemon.begin()
    while not daemon.answers():
        if not daemon.running() or time.monotonic() > start + LONGEST_RUN:
            raise RuntimeError(f"chunkyd did not start\n{daemon.text()[-3000:]}")
        time.sleep(0.002)
    return time.monotonic() - start


def ended_within(program: Program, seconds: float) -> None:
    """Stop it, by force where it does not stop in time; fine where it never began."""
    if program.running():
        program.stop(seconds)


def resident(pid: int, field: str = "VmRSS") -> float:
    """MiB of memory a process holds, or `VmHWM`: has ever held."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor seconds of all threads of a process so far, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def run_client(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command that must succeed, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        ended = os.pidfd_open(process.pid)  # `wait` with a timeout looks only every 50 ms
        try:
            if not select.select([ended], [], [], LONGEST_RUN)[0]:
                process.kill()
        finally:
            os.close(ended)
        code = process.wait()
        wall = time.monotonic() - start
    if code:
        raise subprocess.CalledProcessError(code, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_here(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call, whose program is loaded already."""
    start, before = time.monotonic(), time.process_time()
    call()
    return time.monotonic() - start, time.process_time() - before


def content(folder: Path, beside: str | None = None) -> tuple[int, int]:
    """How many files stand below a folder, and their bytes; without those whose names end in `beside`."""
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    sizes = [os.lstat(path).st_size for path in paths if beside is None or not path.endswith(beside)]
    return len(sizes), sum(sizes)


def spread(folder: Path) -> None:
    """Tell ext4 that what is in this folder does not belong together: each gets a part of the disk of its own.

    Without a journal ext4 skips inodes that were deleted in the last minutes, and searches among them for every new
    file: whoever comes after many runs in one place would pay for those before.
    """
    with contextlib.suppress(OSError):  # another file system
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _TOP_FOLDER))
        finally:
            os.close(descriptor)


def measure(contender: Contender[Receiver], source: Path, work: Path, memory: int) -> Run:
    """One run to a fresh receiver; an error where not everything arrived."""
    spread(work)
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        with contender.receiver(folder, source) as receiver:
            if memory:
                prewarm(memory)
            before = group_cpu(receiver.group)
            wall, cpu = run_client(receiver.command) if receiver.call is None else run_here(receiver.call)
            spent = group_cpu(receiver.group) - before
            expected, arrived = content(source), content(receiver.arrived, receiver.beside)
            if expected != arrived:
                raise RuntimeError(f"{contender.name}: {expected} (files, bytes) were sent, {arrived} arrived")
            return Run(wall, cpu, spent)
    finally:
        shutil.rmtree(folder)
        os.sync()  # what is left to write must not burden the next run


def at_hand(contenders: Sequence[Contender[End]]) -> tuple[list[Contender[End]], tuple[str, ...]]:
    """Those that are installed, and for each other one a sentence that says what it lacks."""
    missing = tuple(f"{each.name}: {each.lacks()}" for each in contenders if each.lacks())
    return [each for each in contenders if not each.lacks()], missing


def beside_peers(
    contenders: Sequence[Contender[Receiver]],
    goal: Goal,
    source: Path,
    work: Path,
    pairs: int,
    memory: int = 0,
    every: int = 2,
) -> Findings:
    """The first one's rows beside the second, which has to be there, and all others that are.

    The first so many take every turn: `every`.
    """
    others, missing = at_hand(contenders[2:])
    size = content(source)[1]
    ours, peer, *rest = in_pairs([*contenders[:2], *others], source, work, pairs, memory, every)
    rows = (ours.row(size, peer, goal), peer.row(size), *(each.row(size, peer) for each in rest))
    return Findings(rows=rows, missing=missing)


def in_pairs(
    contenders: Sequence[Contender[Receiver]],
    source: Path,
    work: Path,
    pairs: int,
    memory: int = 0,
    every: int | None = None,
) -> list[Runs]:
    """Every contender in turn, so many times over; in the order given. `memory`: bytes to fault in before each run.

    Where `every` is given only the first so many take every turn, the others FEW: some of them are slow.
    """
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for turn in range(pairs):
        for contender in contenders[: every if turn >= FEW else None]:
            runs[contender.name].append(measure(contender, source, work, memory))
    return [Runs(contender, tuple(runs[contender.name])) for contender in contenders]
