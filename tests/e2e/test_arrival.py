"""A file dropped in a watched folder arrives, through the real daemon, protocol and server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.e2e.programs import Daemon, Server, running, sha256, tree, wait_until

NAMES = [
    b"plain.txt",
    b"with space and 'quote\".txt",
    b"line\nbreak\ttab.txt",
    "grüße-emoji-\N{ROCKET}.txt".encode(),
    b"not-utf8-\xff\xfe\x80.bin",
    b"x" * 255,
    b"-rf",
    b"%2e%2e",
    b"back\\slash",
]


def same_trees(here: Path, there: Path) -> bool:
    """Whether both hold the same files: names, bytes, modes, times."""
    return tree(here) == tree(there)


def test_one_file(tmp_path: Path) -> None:
    """Dropped, arrived: the same bytes, the same time, and the job is in the history."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        (box / "film.mov").write_bytes(os.urandom(3_000_000))
        arrived = server.files() / "outbox" / "film.mov"
        wait_until("the file arrives", arrived.exists, 20, daemon.text)
        assert sha256(arrived) == sha256(box / "film.mov")
        daemon.wait_idle()
        assert [job["path"] for job in daemon.ctl("history")["jobs"]] == ["film.mov"]
        assert daemon.stop() == 0
        assert server.stop() == 0


def test_every_way_a_file_comes(tmp_path: Path) -> None:
    """cp -a, tar, mv of a tree, temporary-and-rename, an editor's save, odd names, empty, sparse: all arrive."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    original = tmp_path / "original"
    for number in range(120):
        path = original / f"d{number % 12}" / f"e{number % 5}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 37))
    archive = tmp_path / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(original, "from-tar")
    shutil.copytree(original, tmp_path / "to-move")
    with running(server, daemon):
        subprocess.run(["cp", "-a", str(original), str(box / "copied")], check=True)
        subprocess.run(["tar", "xf", str(archive), "-C", str(box)], check=True)
        os.rename(tmp_path / "to-move", box / "moved")
        (box / ".rsync.XYZ").write_bytes(b"rsync writes here first")
        os.rename(box / ".rsync.XYZ", box / "rsynced")
        (box / "edited").write_bytes(b"first")
        os.rename(box / "edited", box / "edited~")
        (box / "edited").write_bytes(b"second, as an editor saves")
        for name in NAMES:
            with open(os.path.join(os.fsencode(box), name), "wb") as file:
                file.write(name * 3)
        (box / "empty").touch()
        with (box / "sparse").open("wb") as file:
            file.truncate(20_000_000)
            file.seek(10_000_000)
            file.write(b"island")
        os.symlink("empty", box / "link")
        os.mkfifo(box / "fifo")
        arrived = server.files() / "outbox"
        expected = {path: value for path, value in tree(box).items() if path != b"edited~"}
        wait_until("all have arrived", lambda: tree(arrived) == expected, 60, lambda: difference(expected, arrived))
        daemon.wait_idle()


def difference(expected: dict[bytes, tuple[str, int, int]], arrived: Path) -> str:
    """For a failed wait: what is missing, and what differs."""
    there = tree(arrived)
    missing = [path for path in expected if path not in there][:10]
    extra = [path for path in there if path not in expected][:10]
    other = [
        (path, expected[path], there[path]) for path in expected if path in there and there[path] != expected[path]
    ]
    return f"missing {missing}, extra {extra}, different {other[:5]}"


def test_what_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    """A restart, and one with the state folder lost: no content travels twice; changes made meanwhile are found."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        (box / "one").write_bytes(os.urandom(500_000))
        wait_until("it arrives", (server.files() / "outbox" / "one").exists, 20, daemon.text)
        daemon.wait_idle()
        daemon.stop()
        chunks = server.text().count("PATCH /uploadChunk")
        (box / "two").write_bytes(b"made while the daemon was down")
        daemon.start()
        wait_until("the new one arrives", (server.files() / "outbox" / "two").exists, 20, daemon.text)
        daemon.wait_idle()
        assert server.text().count("PATCH /uploadChunk") == chunks + 1
        daemon.stop()
        shutil.rmtree(daemon.state)
        daemon.start()
        wait_until("both are known again", lambda: len(daemon.ctl("history")["jobs"]) == 2, 20, daemon.text)
        assert server.text().count("PATCH /uploadChunk") == chunks + 1


def test_after_upload_moves_and_deletes(tmp_path: Path) -> None:
    """`move` and `delete` act only after the file is at the server, each on its own folder."""
    moved, deleted = tmp_path / "to-move", tmp_path / "to-delete"
    moved.mkdir()
    deleted.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(
        tmp_path,
        server.url,
        [
            {"path": str(moved), "after_upload": {"move": str(tmp_path / "sent")}},
            {"path": str(deleted), "after_upload": "delete"},
        ],
    )
    with running(server, daemon):
        (moved / "sub").mkdir()
        (moved / "sub" / "a").write_bytes(b"move me")
        (deleted / "b").write_bytes(b"delete me")
        wait_until("b is deleted", lambda: not (deleted / "b").exists(), 20, daemon.text)
        wait_until("a is moved", (tmp_path / "sent" / "sub" / "a").exists, 20, daemon.text)
        assert (server.files() / "to-delete" / "b").read_bytes() == b"delete me"
        assert (server.files() / "to-move" / "sub" / "a").read_bytes() == b"move me"
        daemon.wait_idle()
