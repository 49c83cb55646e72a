"""`python -m benchmarks.floors`: what each thing that an upload cannot do without costs here, for 1 GiB.

Each is done alone, in C, with nothing of the project around it: nobody can be faster, whatever the program. With
`--small`: what it costs to have 2,000 files of 16 KiB on the disk, in each of the ways decision 0024 is about.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path

import crc32c

from benchmarks.harness import GIBIBYTE, MEBIBYTE, prewarm, random_file, spread
from chunkyd.storage.system import start_writing_back, sync_file_system

PIECE = MEBIBYTE
SMALL_FILES, SMALL_BYTES, GROUP = 2000, 16384, 64
Floor = Callable[[int, bytearray], object]


def main() -> None:
    """Five times each, medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__)
    parser.add_argument("--work", type=Path, help="a folder for the data (default: a temporary one)")
    parser.add_argument("--small", action="store_true", help="small files, and nothing else")
    arguments = parser.parse_args()
    if arguments.small:
        _small(arguments.work)
        return
    with tempfile.TemporaryDirectory(prefix="chunky-benchmark-", dir=arguments.work) as work:
        file = random_file(Path(work) / "file", GIBIBYTE)
        prewarm(2 * GIBIBYTE)
        with file.open("rb", buffering=0) as source:
            read = source.fileno()
            floors: dict[str, Floor] = {
                "read from the page cache": lambda at, buffer: _read(read, at, buffer),
                "SHA-256": _hashing(),
                "CRC-32C": _crc(),
            }
            for name, floor in floors.items():
                _show(name, [_pieces(floor) for _ in range(5)])
        _show("write a new file", [_written(Path(work), sync=False) for _ in range(5)])
        _show("the same, and fdatasync", [_written(Path(work), sync=True) for _ in range(5)])
        _show(
            "the same, past the page cache (O_DIRECT)", [_written(Path(work), sync=True, past=True) for _ in range(5)]
        )
        _show("sendfile to a loopback socket, and recv", [_sent(file, _by_sendfile) for _ in range(5)])
        _show("read and send to it, and recv", [_sent(file, _by_reading) for _ in range(5)])


def _small(place: Path | None) -> None:
    with ThreadPoolExecutor(4) as pool, tempfile.TemporaryDirectory(prefix="chunky-benchmark-", dir=place) as work:
        spread(Path(work))

        def one_by_one(descriptors: Sequence[int]) -> None:
            for descriptor in descriptors:
                start_writing_back(descriptor)
            for descriptor in descriptors:
                os.fsync(descriptor)

        def by_four_threads(descriptors: Sequence[int]) -> None:
            for descriptor in descriptors:
                start_writing_back(descriptor)
            list(pool.map(os.fsync, descriptors))

        def one_sync(descriptors: Sequence[int]) -> None:
            sync_file_system(descriptors[-1])
            os.fsync(descriptors[-1])

        ways = {"synced one by one": one_by_one, "by four threads": by_four_threads, "one sync for 64": one_sync}
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(5):
            for name, way in ways.items():
                runs[name].append(_many(Path(tempfile.mkdtemp(dir=work)), way))
        for name, found in runs.items():
            _show(name, found)


def _many(folder: Path, sync: Callable[[Sequence[int]], None]) -> tuple[float, float]:
    content = os.urandom(SMALL_BYTES)

    def write() -> None:
        for first in range(0, SMALL_FILES, GROUP):
            group: list[int] = []
            for number in range(first, min(first + GROUP, SMALL_FILES)):
                descriptor = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(descriptor, content)
                os.utime(descriptor, (1, 1))
                group.append(descriptor)
            sync(group)
            for descriptor in group:
                os.close(descriptor)

    os.sync()
    return _timed(write)


def _show(name: str, runs: list[tuple[float, float]]) -> None:
    cpu, wall = zip(*runs, strict=True)
    spans = (f"{statistics.median(each):5.2f} ({min(each):.2f} to {max(each):.2f})" for each in (cpu, wall))
    print(f"{name:42} {next(spans)} CPU s {next(spans)} s")


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.monotonic()
    work()
    return time.process_time() - cpu, time.monotonic() - wall


def _pieces(floor: Floor) -> tuple[float, float]:
    buffer = bytearray(PIECE)

    def all_of_them() -> None:
        for at in range(0, GIBIBYTE, PIECE):
            floor(at, buffer)

    return _timed(all_of_them)


def _read(descriptor: int, at: int, buffer: bytearray) -> None:
    os.preadv(descriptor, [buffer], at)


def _hashing() -> Floor:
    running = hashlib.sha256()
    return lambda at, buffer: running.update(buffer)


def _crc() -> Floor:
    piece = bytes(PIECE)
    return lambda at, buffer: crc32c.crc32c(piece)


def _written(work: Path, *, sync: bool, past: bool = False) -> tuple[float, float]:
    path = work / "written"
    buffer = mmap.mmap(-1, PIECE)  # at the beginning of a page, as a write past the cache needs it
    buffer.write(os.urandom(PIECE))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_DIRECT if past else 0))

    def write() -> None:
        for at in range(0, GIBIBYTE, PIECE):
            os.pwrite(descriptor, buffer, at)
        if sync:
            os.fdatasync(descriptor)

    took = _timed(write)
    os.close(descriptor)
    path.unlink()
    return took


def _by_sendfile(near: socket.socket, file: BufferedReader) -> None:
    near.sendfile(file)


def _by_reading(near: socket.socket, file: BufferedReader) -> None:
    for at in range(0, GIBIBYTE, PIECE):
        near.sendall(os.pread(file.fileno(), PIECE, at))


def _sent(path: Path, send_all: Callable[[socket.socket, BufferedReader], None]) -> tuple[float, float]:
    with socket.create_server(("127.0.0.1", 0)) as listener, path.open("rb") as file:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()

        def receive() -> None:
            buffer = bytearray(PIECE)
            while far.recv_into(buffer):
                pass

        def send() -> None:
            thread = threading.Thread(target=receive)
            thread.start()
            send_all(near, file)
            near.close()
            thread.join()

        took = _timed(send)
        far.close()
        return took


if __name__ == "__main__":
    main()
