"""The log: one line a record on stderr, for people, for machines, or for the journal.

- Control characters, line breaks and what turns the direction of writing are escaped: a file's name cannot
  forge a line, nor move a terminal's cursor.
- What looks like a token or a password is blotted out, wherever it comes from.
- The journal keeps time and priority itself: lines for it have `<N>` in front, and text no time.
- Others' libraries are heard from `warning` on.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import unicodedata
from collections.abc import Mapping
from typing import Final, Protocol, TextIO

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7

_ESCAPED_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
_DIRECTIONS: Final = frozenset(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))

_SECRETS: Final = (
    (re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*(?:b?['\"])?(?:basic\s+)?)(?!bearer|basic)[^\s'\",]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\",]+"), r"\1***"),
    # Not `token: …`: a message about the file /etc/chunkyd/token begins like that.
    (re.compile(r"(?i)(token=['\"]?|['\"]token['\"]\s*:\s*['\"]?)[^\s'\",;&)}]+"), r"\1***"),
    (re.compile(r"(://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
)


class Wanted(Protocol):
    """What is logged, and how a line looks: the section `log` of either program's settings."""

    @property
    def level(self) -> str:
        """The least that is logged: debug, info, warning or error."""
        ...

    @property
    def format(self) -> str:
        """`text` or `json`."""
        ...


def configure(log: Wanted, program: str) -> None:
    """Log to stderr from now on; called again it replaces what it set before."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
    journal = is_journal(sys.stderr, os.environ)
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(program, journal) if log.format == "json" else TextFormatter(program, journal))
    root.addHandler(handler)
    level = _LEVELS[log.level]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("chunkyd").setLevel(level)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream leads to systemd's journal: it says which device and inode do."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return bool(colon) and (device, inode) == (str(status.st_dev), str(status.st_ino))


def escape(text: str) -> str:
    r"""Text that stays on its line and harms no terminal: `\n`, `\x1b`, `\u202e`; `\xff` for a byte not UTF-8."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character not in _DIRECTIONS and unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as os.fsdecode shows it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def blot(text: str) -> str:
    """The same text without tokens and passwords."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Ours, to be found again; when stderr itself is broken there is nobody left to tell."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line: the program goes on."""


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z chunkyd info watch: message`; a trace follows on indented lines."""

    def __init__(self, program: str, journal: bool) -> None:
        super().__init__()
        self._program = program
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line, and one more for each line of a trace."""
        head = f"{record.levelname.lower()} {_package(record)}: {_message(record)}"
        lines = [head, *(f"    {line}" for line in _trace(self, record))]
        if self._journal:
            return "\n".join(f"<{_priority(record)}>{line}" for line in lines)
        lines[0] = f"{_moment(record)} {self._program} {head}"
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, program, logger, message, and trace where there is one."""

    def __init__(self, program: str, journal: bool) -> None:
        super().__init__()
        import json  # only where it is wanted, and now: a line may have to be written when no more files can be opened

        self._encoded = json.dumps
        self._program = program
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": _message(record),
        }
        trace = _trace(self, record)
        if trace:
            document["trace"] = "\n".join(trace)
        line = self._encoded(document, ensure_ascii=False)
        return f"<{_priority(record)}>{line}" if self._journal else line


def _message(record: logging.LogRecord) -> str:
    return escape(blot(record.getMessage()))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The trace of an error of our own making, line by line; nothing in it can pass for a line of the log.

    Others' libraries warn with a trace about a mere cut answer: that is the network's fault, and one line.
    """
    if not record.exc_info or record.levelno < logging.ERROR:
        return []
    return [escape(line) for line in blot(formatter.formatException(record.exc_info)).split("\n")]


def _package(record: logging.LogRecord) -> str:
    return escape(record.name.removeprefix("chunkyd."))


def _moment(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03}Z"


def _priority(record: logging.LogRecord) -> int:
    """syslog's number for a level."""
    return next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
