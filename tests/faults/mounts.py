"""Disks for tests: made of memory or of a file, plugged in and pulled, and all gone at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disks:
    """What a test has mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[Path] = []

    def disk(self, name: str = "disk", size: str = "64m") -> Path:
        """A file system in memory, out of the way; `plug` shows it where it is wanted."""
        place = self._folder / name
        place.mkdir()
        self._mount(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        return place

    def plug(self, disk: Path, point: Path) -> None:
        """The disk is at this point."""
        self._mount(point, "--bind", str(disk))

    def image(self, kind: str, name: str, megabytes: int = 64, options: tuple[str, ...] = ()) -> Path:
        """A file system of this kind in a file, on a loop device; `options` are for its making."""
        maker = shutil.which(f"mkfs.{kind}")
        if maker is None:
            pytest.skip(f"there is no mkfs.{kind} here")
        image, place = self._folder / f"{name}.img", self._folder / name
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([maker, *options, str(image)], check=True, capture_output=True)
        place.mkdir()
        self.show(image, place, kind)
        return place

    def show(self, image: Path, point: Path, kind: str) -> None:
        """The file system of this kind that is in the image is at this point."""
        try:
            self._mount(point, "-o", "loop", "-t", kind, str(image))
        except subprocess.CalledProcessError as error:
            if b"unknown filesystem" in error.stderr:
                pytest.skip(f"this kernel knows no {kind}")
            raise

    def pull(self, point: Path) -> None:
        """Nothing is mounted there any more, though files on it may still be open."""
        subprocess.run(["umount", "--lazy", str(point)], check=True)
        self._mounted.remove(point)

    def _mount(self, point: Path, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(point)], check=True, stderr=subprocess.PIPE)
        self._mounted.append(point)

    def close(self) -> None:
        """Unmount everything."""
        for point in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


@contextlib.contextmanager
def disks(folder: Path) -> Iterator[Disks]:
    """Disks below this folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    made = Disks(folder)
    try:
        yield made
    finally:
        made.close()
