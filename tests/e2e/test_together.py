"""Several clients at once: users apart, sessions shared, the newest version on top."""

from __future__ import annotations

import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.programs import Daemon, Program, Server, running, sha256, wait_until
from tests.server.process import Client, Session

MIB = 1 << 20
CHUNK = MIB
PARALLEL = 4
NUMBERS = itertools.count()


class Upload(Program):
    """One `chunky upload`, as a process of its own."""

    def __init__(self, folder: Path, server: Server, file: Path, *options: str, token: str = "") -> None:
        name = f"upload{next(NUMBERS)}"
        state = [] if "--state" in options else ["--state", str(folder / f"{name}.sqlite3")]
        to = [] if "--to" in options else ["--to", server.url]
        sizes = ["--chunk-size", f"{CHUNK // MIB}MiB", "--parallel", str(PARALLEL)]
        command = ("chunky", "upload", *to, *state, *sizes, *options, str(file))
        super().__init__(folder, name, *command, env={"CHUNKYD_TOKEN": token})

    def wait(self, seconds: float = 60.0) -> None:
        """Until it has ended; an AssertionError unless all was sent."""
        wait_until("the upload ends", lambda: not self.running(), seconds, self.text)
        assert self.process is not None
        assert self.process.returncode == 0, self.text()


def random_file(path: Path, size: int) -> str:
    """Random bytes; their hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return sha256(path)


def bytes_accepted(server: Server) -> int:
    """The sum over all chunks that were answered 200."""
    pattern = re.compile(r"PATCH /uploadChunk 200 .*range=(\d+)-(\d+)/\d+ ")
    return sum(int(match[2]) - int(match[1]) + 1 for match in pattern.finditer(server.text()))


def published(server: Server, user: str = "local") -> list[str]:
    """The names of all a user's files."""
    root = server.files(user)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def wait_no_partial(server: Server) -> None:
    """Until no session holds bytes any more."""
    wait_until("no partial is left", lambda: not list((server.data / "partial").iterdir()), 20, server.text)


def test_two_users_send_the_same_file(tmp_path: Path) -> None:
    """Each sends every byte, neither gains by the other's having it, and each has a file of their own."""
    server = Server(tmp_path, auth="tokens")
    source = tmp_path / "film.mov"
    expected = random_file(source, 8 * MIB)
    tokens = {user: server.command("user", "add", user).splitlines()[-1] for user in ("ann", "bob")}
    tokens["ann"] = server.command("token", "add", "--user", "ann").splitlines()[-1]
    with running(server):
        uploads = [Upload(tmp_path, server, source, token=token) for token in tokens.values()]
        with running(*uploads):
            for upload in uploads:
                upload.wait()
        for user in tokens:
            assert published(server, user) == ["film.mov"]
            assert sha256(server.files(user) / "film.mov") == expected
        assert bytes_accepted(server) == 2 * source.stat().st_size
        first, second = (os.stat(server.files(user) / "film.mov").st_ino for user in tokens)
        assert first != second
        unknown = Upload(tmp_path, server, source, token="nobody's")
        with running(unknown):
            wait_until("it is refused", lambda: not unknown.running(), 20, unknown.text)
            assert unknown.process is not None
            assert unknown.process.returncode != 0
    assert list((server.data / "partial").iterdir()) == []


@pytest.mark.parametrize("names", [("film.mov", "film.mov"), ("one.mov", "two.mov")], ids=["one path", "two paths"])
def test_two_clients_of_one_user(tmp_path: Path, names: tuple[str, str]) -> None:
    """Two that know nothing of each other send one file at once: both succeed, whatever path; all files are whole."""
    server = Server(tmp_path)
    source = tmp_path / "source"
    expected = random_file(source, 24 * MIB)
    with running(server):
        uploads = [Upload(tmp_path, server, source, "--name", name) for name in names]
        with running(*uploads):
            for upload in uploads:
                upload.wait()
        assert published(server) == sorted(set(names))
        for name in names:
            assert sha256(server.files() / name) == expected
        wait_no_partial(server)


def test_two_clients_resume_one_session(tmp_path: Path) -> None:
    """A first one is killed; two with its memory go on at once: they share what is left, and both succeed."""
    server = Server(tmp_path)
    source = tmp_path / "source"
    expected = random_file(source, 48 * MIB)
    state = ("--state", str(tmp_path / "state.sqlite3"))
    with running(server):
        first = Upload(tmp_path, server, source, *state, "--limit", "24MiB/s")
        with running(first):
            wait_until("a third is there", lambda: bytes_accepted(server) >= 16 * MIB, 30, first.text)
        both = [Upload(tmp_path, server, source, *state, "--limit", "16MiB/s") for _ in range(2)]
        with running(*both):
            for upload in both:
                upload.wait()
        assert sha256(server.files() / "source") == expected
        assert published(server) == ["source"]
        rest = 32 * MIB  # on a busy machine one may be late to hear what the other has stored
        assert bytes_accepted(server) <= 48 * MIB + rest * 3 // 4
        sessions = set(re.findall(r"PATCH /uploadChunk 200 .*session=(\S+)", server.text()))
        assert len(sessions) == 1
        wait_no_partial(server)


def test_newer_overtakes_while_the_older_is_verified(tmp_path: Path) -> None:
    """A small new version is complete while the big old one is still hashed: both succeed, and the new one stays."""
    server = Server(tmp_path)
    old, new = bytes(512 * MIB), b"the new version"
    part = 64 * MIB
    with running(server), ThreadPoolExecutor(1) as aside:
        big = Client(server.port).initiate(old, b"report")
        for start in range(part, len(old), part):  # the beginning comes last, so that nothing is hashed before
            assert big.put(start, start + part).status == 200
        watching = Session(Client(server.port), old, big.file_hash, big.reply)
        small = Client(server.port).initiate(new, b"report")
        aside.submit(big.put, 0, part)
        wait_until("it is verified", lambda: watching.status().json["status"] == "verifying", 20, server.text)
        assert small.put(0, len(new)).status == 200
        wait_until("the small one is complete", lambda: small.status().json["status"] == "complete", 20, server.text)
        assert (server.files() / "report").read_bytes() == new
        wait_until("the big one is complete", lambda: watching.status().json["status"] == "complete", 60, server.text)
        order = re.findall(r": complete: report of local, (\d+) bytes", server.text())
        assert order == [str(len(new)), str(len(old))]
        assert (server.files() / "report").read_bytes() == new
        assert published(server) == ["report"]
        wait_no_partial(server)


def test_existing_files_are_kept(tmp_path: Path) -> None:
    """`existing: keep`: another version puts the old one aside as name.~1~; equal bytes never make a copy."""
    server = Server(tmp_path, existing="keep")
    source = tmp_path / "report.txt"
    with running(server):
        for content in (b"first", b"first", b"second", b"second", b"third"):
            source.write_bytes(content)
            upload = Upload(tmp_path, server, source)
            with running(upload):
                upload.wait()
        found = {name: (server.files() / name).read_bytes() for name in published(server)}
        assert found == {"report.txt": b"third", "report.txt.~1~": b"first", "report.txt.~2~": b"second"}


def test_a_file_becomes_a_folder_and_a_file_again(tmp_path: Path) -> None:
    """The folder takes the file's place; back, nothing at the server is deleted for it: the job says what to do."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    there = server.files() / "outbox" / "thing"
    with running(server, daemon):
        (box / "thing").write_bytes(b"a file")
        wait_until("the file arrives", there.is_file, 20, daemon.text)
        daemon.wait_idle()
        (box / "thing").unlink()
        (box / "thing").mkdir()
        (box / "thing" / "inside").write_bytes(b"in a folder")
        wait_until("the folder arrives", (there / "inside").is_file, 20, daemon.text)
        daemon.wait_idle()
        (box / "thing" / "inside").unlink()
        (box / "thing").rmdir()
        (box / "thing").write_bytes(b"a file again")
        wait_until("the job has failed", lambda: [job["state"] for job in daemon.jobs()] == ["failed"], 20, daemon.text)
        assert (there / "inside").read_bytes() == b"in a folder"
        (there / "inside").unlink()
        daemon.ctl("retry", str(daemon.jobs()[0]["id"]))
        wait_until("the file is back", there.is_file, 20, daemon.text)
        assert there.read_bytes() == b"a file again"
        daemon.wait_idle()
