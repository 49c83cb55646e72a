"""YAML as it was written, with lines, and what of YAML is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.errors import ConfigError
from chunkyd.settings import load_daemon

from .helpers import MINIMAL, daemon, refusal, written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "config.yaml:1: not YAML: mapping values are not allowed here"),
        ("\n\na: [*.mov]", "config.yaml:3: not YAML: while scanning an alias"),
        ("a: [*mov]", "config.yaml:1: not YAML: found undefined alias 'mov'"),
        ("a: 1\na:\t- b", "config.yaml:2: not YAML: "),
        ("a: 'b", "config.yaml:1: not YAML: "),
        ("--- a\n--- b\n", "config.yaml:2: not YAML: expected a single document"),
        (b"a: b\nc: \xff", "config.yaml:2: not UTF-8"),
        (b"a: b\n\nc: \x00", "config.yaml:3: not YAML: the character U+0000 is not allowed"),
        ("a: b\nc: \x1b[2J", "config.yaml:2: not YAML: the character U+001B is not allowed"),
        ("x: " + "[" * 5000, "config.yaml:1: not YAML that can be understood"),
        ("server: {}\n\nserver: {}", "config.yaml:3: server: the key is there twice"),
        (MINIMAL + "  path: /srv/b\n", "config.yaml:4: path: the key is there twice"),
        ("? [a]\n: b", "config.yaml:1: a key has to be a plain word"),
        ("!!python/object/apply:os.system [x]", "config.yaml:1: the tag !!python/object/apply:os.system"),
        (MINIMAL + "  exclude: !keep\n", "config.yaml:4: the tag !keep is not allowed"),
        ("a: !!binary aGk=", "config.yaml:1: the tag !!binary is not allowed"),
        ("a: &a [*a]", "config.yaml:1: an alias inside of what it names"),
        ("a: &a {<<: *a}", "config.yaml:1: an alias inside of what it names"),
        ("<<: 5", "config.yaml:1: << takes a map"),
        ("[]", "config.yaml:1: takes a map"),
        ("server", "config.yaml:1: takes a map"),
    ],
)
def test_bad_yaml_names_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    """Whatever is not the YAML that is meant is refused with file and line, never with a trace."""
    assert refusal(tmp_path, text).startswith(message)


def test_nothing_is_guessed(tmp_path: Path) -> None:
    """Words YAML 1.1 would turn into booleans, octal or base-60 numbers, dates and nothing stay what was typed."""
    for word in ("no", "on", "010", "0o10", "12:30:45", "1_000", "2026-01-31", "0x10", ".5", "1e3"):
        assert daemon(tmp_path, MINIMAL + f"  name: {word}\n").folders[0].name == word
    for word in ("'null'", '"~"'):
        assert daemon(tmp_path, MINIMAL + f"  name: {word}\n").folders[0].name == word[1:-1]


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "ON", "'true'"])
def test_every_yes_is_true(tmp_path: Path, word: str) -> None:
    """A switch understands every spelling of yes."""
    assert daemon(tmp_path, MINIMAL + f"  poll: {word}\n").folders[0].poll is True


def test_unquoted_timetable_is_read(tmp_path: Path) -> None:
    """`08:00` unquoted is no base-60 number."""
    plain = daemon(tmp_path, MINIMAL + "uploads:\n  bandwidth: 08:00,2MiB/s 18:00,unlimited\n")
    quoted = daemon(tmp_path, MINIMAL + 'uploads:\n  bandwidth: "08:00,2MiB/s 18:00,unlimited"\n')
    assert plain == quoted


def test_comma_in_braces_is_explained(tmp_path: Path) -> None:
    """A value torn apart by its comma is refused with the way to write it."""
    message = refusal(tmp_path, MINIMAL + "uploads: {bandwidth: 08:00,2MiB/s}\n")
    assert message.startswith("config.yaml:4: uploads.2MiB/s: unknown key")
    assert "quotes" in message


def test_anchors_and_merges(tmp_path: Path) -> None:
    """An anchored value serves twice, and what stands in a map wins over what is merged into it."""
    text = (
        "server: {url: https://h}\nfolders:\n- &first {path: /a, name: a, settle: 1s, priority: 3}\n"
        "- {<<: *first, path: /b, name: b}\n- {<<: [{settle: 7s}, *first], path: /c, name: c}\n"
    )
    folders = daemon(tmp_path, text).folders
    assert [(folder.path, folder.settle, folder.priority) for folder in folders] == [
        ("/a", 1.0, 3),
        ("/b", 1.0, 3),
        ("/c", 7.0, 3),
    ]


def test_merged_mistake_names_its_own_line(tmp_path: Path) -> None:
    """A wrong key that comes in by a merge is shown where it is written."""
    text = "server: {url: https://h}\nfolders:\n- &f\n  path: /a\n  settel: 1s\n"
    assert refusal(tmp_path, text).startswith("config.yaml:5: folders[0].settel: unknown key; did you mean 'settle'?")


def test_aliases_cannot_multiply(tmp_path: Path) -> None:
    """A document that would unfold into billions of values is refused at once."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    assert refusal(tmp_path, "\n".join(lines)).startswith("config.yaml:1: a0: unknown key")


@pytest.mark.parametrize("wrap", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_files_from_elsewhere(tmp_path: Path, wrap: object) -> None:
    """A byte order mark and Windows' line ends change nothing."""
    assert callable(wrap)
    assert daemon(tmp_path, wrap(MINIMAL)) == daemon(tmp_path, MINIMAL)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A config that is missing, or a folder, is a bad config and says why."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_daemon(str(path), {})


def test_long_values_are_not_repeated(tmp_path: Path) -> None:
    """A megabyte in the wrong place does not become a megabyte of message."""
    path = written(tmp_path, MINIMAL + f"  settle: {'9' * 1_000_000}x\n")
    with pytest.raises(ConfigError) as caught:
        load_daemon(path, {})
    assert len(str(caught.value)) < 500
