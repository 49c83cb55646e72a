"""The log: what a line looks like, and what never gets into one."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.log import blot, configure, escape, is_journal
from chunkyd.settings import Log

Lines = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Levels and handlers are the process's: what a test configured is taken back."""
    root, ours = logging.getLogger(), logging.getLogger("chunkyd")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    """What has been written to stderr since this was asked last."""

    def read() -> list[str]:
        return capfd.readouterr().err.splitlines()

    return read


def be_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what systemd says where stderr is the journal's."""
    status = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


def test_text_line(lines: Lines) -> None:
    """A line has time, program, level, package and message."""
    configure(Log(), "chunkyd")
    logging.getLogger("chunkyd.watch").info("watching %s", "/srv/a")
    line = lines()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z chunkyd info watch: watching /srv/a", line)


def test_json_line(lines: Lines) -> None:
    """A line is one JSON object, whatever is in the message."""
    configure(Log(format="json"), "chunky-server")
    logging.getLogger("chunkyd.server").warning("stored %s", 'a"b\n\udcffé')
    document = json.loads(lines()[0])
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "program": "chunky-server",
        "logger": "chunkyd.server",
        "message": 'stored a"b\\n\\xffé',
    }


def test_level(lines: Lines) -> None:
    """Ours is heard from the chosen level on, others' libraries from warning on."""
    configure(Log(level="debug"), "chunkyd")
    logging.getLogger("chunkyd.jobs").debug("ours")
    logging.getLogger("urllib3").info("theirs")
    logging.getLogger("urllib3").warning("theirs, loud")
    configure(Log(level="error"), "chunkyd")
    logging.getLogger("chunkyd.jobs").warning("ours, too quiet")
    logging.getLogger("urllib3").warning("theirs, too quiet")
    logging.getLogger("chunkyd.jobs").error("last")
    assert [line.rpartition(": ")[2] for line in lines()] == ["ours", "theirs, loud", "last"]


def test_configured_again(lines: Lines) -> None:
    """A reload replaces what was configured before: no line comes twice, and others' handlers stay."""
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure(Log(), "chunkyd")
    configure(Log(format="json"), "chunkyd")
    logging.getLogger("chunkyd").info("once")
    (line,) = lines()
    assert json.loads(line)["message"] == "once"
    assert other in logging.getLogger().handlers


def test_journal_text(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the journal a line has its priority in front and no time; each line of a trace too."""
    be_the_journal(monkeypatch)
    configure(Log(level="debug"), "chunkyd")
    log = logging.getLogger("chunkyd.jobs")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    log.critical("c")
    expected = ["<7>debug jobs: d", "<6>info jobs: i", "<4>warning jobs: w", "<3>error jobs: e", "<2>critical jobs: c"]
    assert lines() == expected
    _fail(log)
    assert all(line.startswith("<3>") for line in lines())


def test_journal_json(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the journal a JSON line has its priority in front, which the journal takes off."""
    be_the_journal(monkeypatch)
    configure(Log(format="json"), "chunkyd")
    logging.getLogger("chunkyd.jobs").info("i")
    line = lines()[0]
    assert line.startswith("<6>{")
    assert json.loads(line[3:])["message"] == "i"


def test_what_is_no_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stderr that was sent elsewhere, is closed, or is no file is not the journal, whatever the environment says."""
    with (tmp_path / "file").open("w") as stream:
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(stream, {"JOURNAL_STREAM": "nonsense"})
        assert not is_journal(stream, {})
    assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def _fail(log: logging.Logger) -> None:
    """Log an error of our own making, whose message tries to pass for a line of the log."""
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z chunkyd info jobs: all is well\x1b[2J")
    except ValueError:
        log.exception("broken")


def test_trace_is_indented(lines: Lines) -> None:
    """Only the first line of a trace stands at the left edge: what an error says cannot forge a line."""
    configure(Log(), "chunkyd")
    _fail(logging.getLogger("chunkyd.jobs"))
    first, *rest = lines()
    assert "error jobs: broken" in first
    assert len(rest) > 2
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_trace_in_json(lines: Lines) -> None:
    """In JSON a trace is a member, and the line stays one line."""
    configure(Log(format="json"), "chunkyd")
    _fail(logging.getLogger("chunkyd.jobs"))
    (line,) = lines()
    assert "ValueError: bad" in json.loads(line)["trace"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 😀 日本", "plain é 😀 日本"), ("a\nb\r\tc", "a\\nb\\r\\tc"), ("\x1b[31m", "\\x1b[31m"),
        ("\x7f\x85\x9b", "\\x7f\\x85\\x9b"), ("\u2028\u2029", "\\u2028\\u2029"), ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066\u200f\u061c", "\\u2066\\u200f\\u061c"), ("\udcff\udc80", "\\xff\\x80"), ("\ud800", "\\ud800"),
    ],
)  # fmt: skip
def test_escape(text: str, shown: str) -> None:
    """What would break the line, move the cursor or turn the text around is shown as an escape; letters stay."""
    assert escape(text) == shown
    escape(text).encode()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2",
        "{'Authorization': 'Bearer hunter2', 'Host': 'h'}",
        '{"authorization": "bearer hunter2"}',
        "[(b'authorization', b'Bearer hunter2')]",
        "Authorization: hunter2",
        "Proxy-Authorization: Basic hunter2",
        "CHUNKYD_TOKEN=hunter2",
        "Remote(token='hunter2')",
        "{'token': 'hunter2'}",
        "GET /x?token=hunter2&a=b",
        "proxy http://ada:hunter2@proxy:3128 refused",
        "https://:hunter2@h/",
    ],
)
def test_no_token_in_a_line(lines: Lines, text: str) -> None:
    """A token or password is blotted out in messages, arguments and traces, in text and in JSON."""
    assert "***" in blot(text)
    for log_format in ("text", "json"):
        configure(Log(format="json" if log_format == "json" else "text"), "chunkyd")
        log = logging.getLogger("chunkyd.upload")
        log.warning("%s", text)
        log.warning(text.replace("%", "%%"))
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("failed")
    logged = lines()
    assert len(logged) > 6
    assert "hunter2" not in "".join(logged)


@pytest.mark.parametrize(
    "text",
    [
        "/etc/chunkyd/token: the token cannot be read: Permission denied",
        "the token of cam1 was refused",
        "token added for cam1; tokens: 3",
        "https://files.example.org:8420/x@y",
        "uploading 10:30@home",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """A message about a token, and a URL without a password, stay readable."""
    assert blot(text) == text


def test_broken_stderr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stderr that cannot be written to stops nobody."""
    stream = (tmp_path / "file").open("w")
    monkeypatch.setattr(sys, "stderr", stream)
    configure(Log(), "chunkyd")
    stream.close()
    logging.getLogger("chunkyd").error("into the void")


def test_a_warning_has_no_trace(lines: Lines) -> None:
    """urllib3 warns with a trace where an answer was cut in its head: the network's fault is one line."""
    configure(Log(), "chunkyd")
    try:
        raise ValueError("no header")
    except ValueError:
        logging.getLogger("urllib3.connection").warning("Failed to parse headers", exc_info=True)
    assert len(lines()) == 1
