"""`chunky upload` as people and scripts use it: real processes against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from chunkyd.checkpoints import VARIABLE
from chunkyd.protocol.batch import PATH_BATCH
from chunkyd.upload.many import WORKERS
from chunkyd.upload.together import MOST_FILES
from tests.e2e.programs import BIN, Server, free_port, sha256, tree, wait_until
from tests.upload.faultproxy import Answer, Cut, FaultProxy, Stall
from tests.upload.test_uploader import once

MIB = 1024 * 1024


@pytest.fixture
def chunky(tmp_path: Path):
    """Runs `chunky upload` with a memory of the test's own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        command = [BIN / "chunky", "upload", "--state", tmp_path / "state.sqlite3", *arguments]
        home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "CHUNKYD_CONFIG": ""}
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        env = {**os.environ, **home, **options.pop("env", {})}
        started.append(subprocess.Popen(command, text=True, env=env, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def run(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_tree_arrives_whole(server: Server, chunky, tmp_path: Path) -> None:
    """Names with spaces, newlines, emoji and other bytes, empty and big files, modes and times: all arrive."""
    folder = tmp_path / f"tree-{tmp_path.name}"
    for number, name in enumerate([b"a b", b"new\nline", "🎥".encode(), b"\xff\xfe", b"x" * 255, b"empty"]):
        below = os.fsencode(folder) + b"/d%d" % number
        os.makedirs(below)
        with open(below + b"/" + name, "wb") as file:
            file.write(os.urandom(number * 100_000 if name != b"empty" else 0))
    (folder / "big").write_bytes(os.urandom(12 * MIB))
    (folder / "link").symlink_to("big")
    code, out, err = run(chunky("-r", folder, "--to", server.url + "/in/box"))
    assert code == 0, err
    assert tree(server.files() / "in" / "box" / folder.name) == tree(folder)
    assert "link: skipped" in err
    assert "7 of 7 files sent" in out


def test_json_is_one_document(server: Server, chunky, tmp_path: Path) -> None:
    """With --json stdout is one document, camelCase, with the bytes of names that are not UTF-8."""
    path = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(path)).write_bytes(b"content")
    code, out, _ = run(chunky(path, "--to", server.url, "--json"))
    document = json.loads(out)
    (file,) = document["files"]
    assert code == document["exitCode"] == 0
    assert (file["state"], file["bytesSent"], file["resumedFrom"], file["pathBytes"]) == ("done", 7, 0, "/w==")
    assert file["fileHash"] == sha256(path)


def test_many_small_files_and_nobody_there(proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """Not every group of small files runs into the same wall: uploads of their own give up for them all."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2 * WORKERS * MOST_FILES):
        (folder / str(number)).write_bytes(b"x")
    proxy.plan = lambda seen: Cut(0)
    code, _, err = run(chunky("-r", folder, "--to", proxy.url))
    assert code == 69, err
    assert sum(seen.method == "OPTIONS" for seen in proxy.requests) <= WORKERS


def test_small_files_arrive_where_no_group_does(server: Server, proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """Something on the way lets no group through, though the server takes them: each file arrives by itself."""
    folder = tmp_path / f"many-{tmp_path.name}"
    folder.mkdir()
    for number in range(30):
        (folder / str(number)).write_bytes(b"x" * number)
    proxy.plan = lambda seen: Answer(403) if seen.path == PATH_BATCH else None
    code, _, err = run(chunky("-r", folder, "--to", proxy.url))
    assert code == 0, err
    assert proxy.count(PATH_BATCH) > 0
    assert tree(server.files() / folder.name) == tree(folder)


def test_one_bad_file_does_not_stop_the_others(server: Server, chunky, tmp_path: Path) -> None:
    """What cannot be sent is said on stderr, the rest arrives, the exit code is 1."""
    good = tmp_path / f"good-{tmp_path.name}"
    good.write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    code, out, err = run(chunky(tmp_path / "fifo", tmp_path / "none", good, "--to", server.url))
    assert code == 1
    assert "fifo" in err and "none" in err
    assert (server.files() / good.name).read_bytes() == b"x"
    assert "1 of 3 files sent" in out


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_output_that_cannot_be_written_is_a_message(
    server: Server, chunky, tmp_path: Path, arguments: list[str]
) -> None:
    """A full disk under stdout ends it with 1 and a line that says so, without a trace."""
    path = tmp_path / f"full-{tmp_path.name}"
    path.write_bytes(b"x")
    with open("/dev/full", "w") as full:
        code, _, err = run(chunky(path, "--to", server.url, *arguments, stdout=full))
    assert (code, "Traceback" in err) == (1, False)
    assert "standard output cannot be written: No space left on device" in err


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_matter(server: Server, chunky, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Started without stdout or stderr it sends all the same, and no file of its own takes their numbers."""
    path = tmp_path / f"closed-{tmp_path.name}"
    path.write_bytes(b"x" * 100_000)

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    assert run(chunky(path, "--to", server.url, preexec_fn=close))[0] == 0
    assert sha256(server.files() / path.name) == sha256(path)


def test_a_name_the_terminal_cannot_show_is_escaped(server: Server, chunky, tmp_path: Path) -> None:
    """Where stdout knows ASCII only, an emoji in a name is shown escaped, and the file arrives."""
    path = tmp_path / f"🎥-{tmp_path.name}"
    path.write_bytes(b"x")
    code, out, err = run(chunky(path, "--to", server.url, env={"PYTHONIOENCODING": "ascii"}))
    assert code == 0, err
    assert "\\U0001f3a5-" in out
    assert (server.files() / path.name).exists()


def test_a_working_folder_that_is_gone_is_said(chunky, tmp_path: Path) -> None:
    """A name that leads nowhere any more is wrong use, with a message."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code, _, err = run(chunky("file", "--to", "http://127.0.0.1:1", cwd=gone, preexec_fn=gone.rmdir))
    assert (code, "Traceback" in err) == (2, False)
    assert "working folder" in err


def test_times_of_far_years_arrive(server: Server, chunky, tmp_path: Path) -> None:
    """A file of the year 2400 arrives with its time, and the memory takes it."""
    path = tmp_path / f"far-{tmp_path.name}"
    path.write_bytes(b"x" * 5000)
    subprocess.run(["touch", "-d", "2400-01-01", path], check=True)
    code, _, err = run(chunky(path, "--to", server.url))
    assert code == 0, err
    assert (server.files() / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["/etc/hostname", "--no-such-option"], 2),
        (["/etc", "--to", "http://127.0.0.1:1"], 2),
        (["/etc/hostname", "--to", "http://127.0.0.1:1", "--limit", "fast"], 2),
        (["/etc/hostname", "--to", "http://127.0.0.1:1", "--chunk-size", "-5"], 2),
        (["/etc/hostname", "--to", "http://127.0.0.1:1/?a"], 2),
        (["/etc/hostname", "--to", "http://127.0.0.1:1", "--chunk-size", "0"], 2),
        (["/etc/hostname", "--to", "nonsense"], 78),
        (["/etc/hostname", "--to", "http://a b/"], 78),
        (["/etc/hostname", "--to", "http://exa..mple/"], 78),
        (["/etc/hostname", "--to", "http://" + "a" * 64], 78),
        (["/etc/hostname", "--to", "http://[::1"], 2),
        (["/etc/hostname"], 78),
        (["/etc/hostname", "--config", "/nonexistent"], 78),
        (["/etc/hostname", "--to", "http://127.0.0.1:1", "--token-file", "/nonexistent"], 78),
    ],
)
def test_wrong_use_and_bad_configuration(chunky, arguments: list[str], code: int) -> None:
    """Their exit codes are 2 and 78, with a message and no trace."""
    got, out, err = run(chunky(*arguments))
    assert got == code, err
    assert err.strip() and "Traceback" not in err
    assert out == ""


def test_nobody_there_is_69_and_says_how_to_go_on(chunky, tmp_path: Path) -> None:
    """Many files are not tried five times each: the first one's failure ends the rest."""
    for number in range(20):
        (tmp_path / f"f{number}").write_bytes(b"x")
    files = [tmp_path / f"f{number}" for number in range(20)]
    code, _, err = run(chunky(*files, "--to", f"http://127.0.0.1:{free_port()}"))
    assert code == 69
    assert "run the same command again" in err
    assert err.count("attempts") <= 4


def test_a_url_that_is_no_chunky_server_is_1_at_once(proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """A web server's 404 is no reason to try again."""
    (tmp_path / "f").write_bytes(b"x")
    proxy.plan = lambda seen: Answer(404)
    code, _, err = run(chunky(tmp_path / "f", "--to", proxy.url))
    assert code == 1
    assert "not as a chunky server" in err
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_is_3_and_the_same_command_goes_on(
    server: Server, proxy: FaultProxy, chunky, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C in the middle: exit 3 within seconds, and again with the same words it resumes without a second hash."""
    file = tmp_path / f"big-{tmp_path.name}"
    file.write_bytes(os.urandom(8 * MIB))
    proxy.plan = once("/uploadChunk", Stall(10), 5)
    command = [file, "--to", proxy.url, "--chunk-size", "1MiB", "--parallel", "1"]
    process = chunky(*command)
    wait_until("the fifth chunk stalls", lambda: proxy.count("/uploadChunk") == 5)
    process.send_signal(number)
    code, _, err = run(process)
    assert code == 3
    assert "run the same command again" in err
    assert "Traceback" not in err
    code, out, _ = run(chunky(*command, "--json"))
    (sent,) = json.loads(out)["files"]
    assert (code, sent["resumedFrom"], sent["bytesSent"]) == (0, 4 * MIB, 4 * MIB)
    assert sha256(server.files() / file.name) == sha256(file)


def test_interrupted_twice_it_still_says_what_became_of_the_files(
    server: Server, proxy: FaultProxy, chunky, tmp_path: Path
) -> None:
    """An impatient second and third Ctrl-C do not cut the document short."""
    file = tmp_path / f"big-{tmp_path.name}"
    file.write_bytes(os.urandom(4 * MIB))
    proxy.plan = once("/uploadChunk", Stall(10), 2)
    process = chunky(file, "--to", proxy.url, "--chunk-size", "1MiB", "--parallel", "1", "--json")
    wait_until("the second chunk stalls", lambda: proxy.count("/uploadChunk") == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopping …\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, out, err = run(process)
    assert (code, err) == (3, "")
    assert [each["state"] for each in json.loads(out)["files"]] == ["interrupted"]


def test_a_signal_that_is_ignored_stays_ignored(server: Server, proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """Under nohup the end of the terminal does not end it."""
    file = tmp_path / f"big-{tmp_path.name}"
    file.write_bytes(os.urandom(3 * MIB))
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process = chunky(file, "--to", proxy.url, "--chunk-size", "1MiB", "--limit", "2MiB/s", preexec_fn=ignore)
    wait_until("it sends", lambda: proxy.count("/uploadChunk") > 0)
    process.send_signal(signal.SIGHUP)
    assert run(process)[0] == 0


def test_killed_it_goes_on_with_at_most_the_chunks_in_flight_again(
    server: Server, proxy: FaultProxy, chunky, tmp_path: Path
) -> None:
    """kill -9 in the middle: the next run sends what was not stored, and nothing else."""
    file = tmp_path / f"big-{tmp_path.name}"
    file.write_bytes(os.urandom(12 * MIB))
    reached = threading.Event()

    def plan(seen):
        if sum(each.method == "PATCH" for each in proxy.requests) > 6:
            reached.set()
            return Stall(10)
        return None

    proxy.plan = plan
    command = [file, "--to", proxy.url, "--chunk-size", "1MiB", "--parallel", "2"]
    process = chunky(*command)
    assert reached.wait(30)
    process.kill()
    process.wait(10)
    proxy.plan = lambda seen: None
    code, out, _ = run(chunky(*command, "--json"))
    (sent,) = json.loads(out)["files"]
    assert code == 0
    assert sent["resumedFrom"] >= 5 * MIB
    assert sent["bytesSent"] == 12 * MIB - sent["resumedFrom"]
    assert sha256(server.files() / file.name) == sha256(file)


def test_two_processes_on_one_file_at_once(server: Server, chunky, tmp_path: Path) -> None:
    """The same command twice at the same moment: both report success, the file is whole."""
    file = tmp_path / f"big-{tmp_path.name}"
    file.write_bytes(os.urandom(24 * MIB))
    processes = [chunky(file, "--to", server.url, "--chunk-size", "1MiB") for _ in range(2)]
    assert [run(process)[0] for process in processes] == [0, 0]
    assert sha256(server.files() / file.name) == sha256(file)


def test_on_a_terminal_it_shows_a_bar(server: Server, chunky, tmp_path: Path) -> None:
    """A terminal gets a bar and the outcome, and no control character of a file's name."""
    file = tmp_path / "evil\x1b]0;title\x07"
    file.write_bytes(os.urandom(MIB))
    ours, theirs = pty.openpty()
    process = chunky(file, "--to", server.url, stdout=theirs, env={"TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert b"sent and verified" in shown
    assert b"\x1b]0;" not in shown


def test_the_token_is_on_no_command_line_and_in_no_text(proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """It comes from a file or the environment, goes into the header, and appears nowhere else."""
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "token").write_text("sesame-sesame\n")
    for options, env in ((["--token-file", tmp_path / "token"], {}), ([], {"CHUNKYD_TOKEN": "sesame-sesame"})):
        code, out, err = run(chunky(tmp_path / "f", "--to", proxy.url, "-v", *options, env=env))
        assert code == 0, err
        assert "sesame" not in out + err
    assert {seen.headers["authorization"] for seen in proxy.requests} == {"Bearer sesame-sesame"}


def test_the_configurations_token_goes_to_its_server_only(proxy: FaultProxy, chunky, tmp_path: Path) -> None:
    """Below the configured URL its token is used, and the rest of the path is the folder; elsewhere it is not sent."""
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "token").write_text("sesame-sesame\n")
    config = tmp_path / "config.yaml"

    def configure(url: str) -> None:
        config.write_text(
            f"server: {{url: '{url}', token_file: {tmp_path}/token}}\n"
            f"state_dir: {tmp_path}/state\nfolders: [{{path: {tmp_path}/folder}}]\n"
        )

    name = tmp_path.name
    for configured, sent in ((proxy.url, True), ("http://127.0.0.1:1", False)):
        configure(configured)
        code, out, err = run(chunky(tmp_path / "f", "--to", f"{proxy.url}/{name}", "--config", config))
        assert code == 0, err
        assert f"{name}/f:" in out
        assert ("authorization" in proxy.requests[-1].headers) is sent


def test_without_to_the_configured_server_is_used(proxy: FaultProxy, chunky, server: Server, tmp_path: Path) -> None:
    """The configuration alone is enough."""
    (tmp_path / f"f-{tmp_path.name}").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"server: {{url: '{proxy.url}'}}\nstate_dir: {tmp_path}/state\nfolders: [{{path: {tmp_path}/folder}}]\n"
    )
    code, _, err = run(chunky(tmp_path / f"f-{tmp_path.name}", "--config", config))
    assert code == 0, err
    assert (server.files() / f"f-{tmp_path.name}").read_bytes() == b"x"


def test_a_damaged_row_of_its_memory(server: Server, chunky, tmp_path: Path) -> None:
    """Refused with the memory's name, and nothing is sent; with the memory put away the file arrives."""
    file, memory = tmp_path / "film", tmp_path / "state.sqlite3"
    file.write_bytes(os.urandom(3 * MIB))
    command = (file, "--to", server.url, "--chunk-size", "1MiB", "--parallel", "1")
    assert run(chunky(*command, env={VARIABLE: "upload.chunk.stored"}))[0] == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(memory)) as rows, rows:
        assert rows.execute("UPDATE sessions SET total_bytes = 'many'").rowcount == 1
    sent = server.text().count("PATCH /uploadChunk")
    code, _, err = run(chunky(*command))
    assert code and str(memory) in err and "Traceback" not in err
    assert server.text().count("PATCH /uploadChunk") == sent
    memory.unlink()
    assert run(chunky(*command))[0] == 0
    assert sha256(server.files() / "film") == sha256(file)
