"""Which files are sent, and under which names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from chunkyd.errors import UsageError
from chunkyd.upload.tree import Found, Skipped, gather


def published(*paths: Path | bytes, **options: object) -> list[bytes]:
    gathered = gather([os.fsencode(path) for path in paths], recursive=True, **options)  # type: ignore[arg-type]
    return [each.path for each in gathered if isinstance(each, Found)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    (folder / "day1" / "cam").mkdir(parents=True)
    (folder / "day1" / "cam" / "a.mov").write_bytes(b"1")
    (folder / "b.mov").write_bytes(b"22")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n")).write_bytes(b"")
    return folder


def test_a_folder_lands_as_its_last_part(folder: Path) -> None:
    """However it is written, below a prefix or not."""
    names = [b"footage/b.mov", b"footage/\xff\n", b"footage/day1/cam/a.mov"]
    assert published(folder) == names
    assert published(os.fsencode(folder) + b"/day1/..//") == names
    assert published(folder, prefix=b"in/box") == [b"in/box/" + name for name in names]
    assert published(folder, name=b"other")[0] == b"other/b.mov"


def test_two_dots_behind_a_link_lead_above_its_target(folder: Path) -> None:
    """`link/../file` is the file the kernel opens, not the one beside the link; its name stays as it was given."""
    (folder / "link").symlink_to("day1/cam")
    (folder / "day1" / "file").write_bytes(b"right")
    (folder / "file").write_bytes(b"wrong!")
    (found,) = gather([os.fsencode(folder) + b"/link/../file"], recursive=False)
    assert isinstance(found, Found)
    assert Path(os.fsdecode(found.source)).read_bytes() == b"right"
    assert found.path == b"file"
    assert published(os.fsencode(folder) + b"/link/..") == [b"day1/file", b"day1/cam/a.mov"]


def test_a_file_lands_as_its_base_name(folder: Path) -> None:
    """Or as the name given."""
    assert published(folder / "b.mov") == [b"b.mov"]
    assert published(folder / "b.mov", name=b"x/y.mov", prefix=b"p") == [b"p/x/y.mov"]


def test_sizes_are_found(folder: Path) -> None:
    """So that a total can be shown."""
    assert sorted(each.size for each in gather([os.fsencode(folder)], recursive=True) if isinstance(each, Found)) == [
        0,
        1,
        2,
    ]


def test_links_and_special_files_in_a_folder_are_skipped_and_said(folder: Path) -> None:
    """Neither a link to a file, nor one to a folder (a loop, even), nor a FIFO is sent."""
    (folder / "link").symlink_to("b.mov")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "fifo")
    skipped = [each for each in gather([os.fsencode(folder)], recursive=True) if isinstance(each, Skipped)]
    assert sorted(os.path.basename(each.source) for each in skipped) == [b"fifo", b"link", b"loop"]
    assert not any(each.failed for each in skipped)


def test_a_link_named_by_the_user_is_followed(folder: Path, tmp_path: Path) -> None:
    """Under the link's name, from the file's place."""
    link = tmp_path / "latest.mov"
    link.symlink_to("footage/b.mov")
    (found,) = gather([os.fsencode(link)], recursive=False)
    assert found == Found(os.fsencode(folder / "b.mov"), b"latest.mov", 2)


def test_what_is_missing_or_special_is_a_failure_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    """A wrong name beside right ones costs only itself."""
    os.mkfifo(tmp_path / "fifo")
    paths = [os.fsencode(tmp_path / name) for name in ("none", "fifo", "footage/b.mov")]
    gathered = gather(paths, recursive=False)
    assert [isinstance(each, Skipped) and each.failed for each in gathered] == [True, True, False]


def test_wrong_use(folder: Path, tmp_path: Path) -> None:
    """A folder without --recursive, one name for two files, two files for one name."""
    (tmp_path / "b.mov").write_bytes(b"other")
    with pytest.raises(UsageError, match="--recursive"):
        gather([os.fsencode(folder)], recursive=False)
    with pytest.raises(UsageError):
        gather([b"/a", b"/b"], recursive=False, name=b"x")
    with pytest.raises(UsageError, match="both"):
        gather([os.fsencode(folder / "b.mov"), os.fsencode(tmp_path / "b.mov")], recursive=False)


def test_the_same_file_twice_is_once(folder: Path) -> None:
    """Named twice, it is no conflict, and is sent once."""
    assert published(folder / "b.mov", folder / "b.mov") == [b"b.mov"]


def test_a_path_too_long_to_publish_is_a_failure_of_its_own(folder: Path) -> None:
    """What the protocol cannot name is said; nothing else suffers."""
    gathered = gather([os.fsencode(folder)], recursive=True, prefix=b"/".join([b"x" * 255] * 16))
    assert [isinstance(each, Skipped) and each.failed for each in gathered] == [True, True, True]


def test_trees_deeper_than_pythons_stack(tmp_path: Path) -> None:
    """A thousand folders in one another are walked (their paths are too long to be published, and said so)."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(b"d", dir_fd=here)
        below = os.open(b"d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert published(tmp_path) == []
    finally:  # the test runner's own cleaning up is recursive
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
