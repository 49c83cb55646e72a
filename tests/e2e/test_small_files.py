"""Many small files go together: through the real daemon and server, and whatever happens to one of them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.programs import Daemon, Server, running, tree, wait_until


def make(folder: Path, count: int) -> None:
    """So many small files, an empty one among them."""
    for number in range(count):
        path = folder / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 31 % 9000))


def counts(server: Server) -> tuple[int, int]:
    """Batches and initiates the server has answered."""
    return server.text().count("POST /uploadBatch 200"), server.text().count("POST /initiateUploadSession")


def test_they_go_together(tmp_path: Path) -> None:
    """Hundreds of files: all there, byte for byte, in a few requests, each a job of its own in the history."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    make(box, 400)
    with running(server, daemon):
        daemon.wait_idle()
        wait_until("all arrive", lambda: tree(server.files() / "outbox") == tree(box), 30, daemon.text)
        batches, initiates = counts(server)
        assert 1 <= batches <= 20 and initiates <= 2
        jobs = daemon.ctl("history", "--limit", "1000")["jobs"]
        assert len(jobs) == 400 and {job["state"] for job in jobs} == {"done"}
        assert os.listdir(server.data / "partial") == []


def test_the_largest_of_the_small_ones_go_together_too(tmp_path: Path) -> None:
    """Two of them are more than the first request is to hold: it is made all the same, and the next ones hold more."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    for number in range(40):
        (box / f"f{number}").write_bytes(os.urandom(600_000))
    with running(server, daemon):
        wait_until("all arrive", lambda: tree(server.files() / "outbox") == tree(box), 60, daemon.text)
        daemon.wait_idle()
        batches, initiates = counts(server)
        assert 1 <= batches <= 30 and initiates <= 10


def test_deleted_after_arrival(tmp_path: Path) -> None:
    """after_upload counts for each of them, and only for those that have arrived."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box), "after_upload": "delete"}])
    make(box, 60)
    expected = tree(box)
    blocked = box / "blocked"
    blocked.write_bytes(b"a folder stands in its way")
    (server.files() / "outbox" / "blocked" / "within").mkdir(parents=True)
    with running(server, daemon):
        wait_until("the others are gone", lambda: list(tree(box)) == [b"blocked"], 30, daemon.text)
        assert tree(server.files() / "outbox") == expected
        wait_until(
            "it has failed alone",
            lambda: (
                [(job["path"], job["state"], job["reason"]) for job in daemon.ctl("list")["jobs"]]
                == [("blocked", "failed", "refused")]
            ),
            30,
            daemon.text,
        )
        assert blocked.read_bytes() == b"a folder stands in its way"


def test_kills_in_the_middle(tmp_path: Path) -> None:
    """kill -9 of the daemon and of the server while they go: in the end all is there, once, and nothing is left.

    A session that the daemon had just opened when it was killed, whose file then went with others, expires.
    """
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path, limits={"reserve": "1MiB", "session_ttl": "5s"})
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}], uploads={"retry": {"base": "50ms", "max": "300ms"}})
    make(box, 900)
    with running(server, daemon):
        for program in (daemon, server, daemon):
            before = len(tree(server.files() / "outbox"))
            if before == len(tree(box)):  # so fast that nothing is left to be interrupted
                make(box / f"more-{program.pid}", 300)
            wait_until("some arrive", lambda before=before: len(tree(server.files() / "outbox")) > before, 30)
            program.kill()
            program.start()
        wait_until("all arrive", lambda: tree(server.files() / "outbox") == tree(box), 60, daemon.text)
        wait_until("no job is left", lambda: not daemon.ctl("list")["jobs"], 30, daemon.text)
        wait_until("no partial is left", lambda: not os.listdir(server.data / "partial"), 30, server.text)


def test_a_later_version_wins(tmp_path: Path) -> None:
    """Files rewritten again and again while they go together: the last version of each is the one that stays."""
    box = tmp_path / "outbox"
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box), "settle": "100ms"}])
    with running(server, daemon):
        for version in range(12):
            for number in range(40):
                (box / f"f{number}").write_bytes(b"%d of %d" % (version, number) * 50)
        wait_until("the last ones are there", lambda: tree(server.files() / "outbox") == tree(box), 40, daemon.text)
        wait_until("no job is left", lambda: not daemon.ctl("list")["jobs"], 30, daemon.text)
        assert tree(server.files() / "outbox") == tree(box)
