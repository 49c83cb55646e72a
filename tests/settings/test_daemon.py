"""chunkyd's settings: what is read, what is refused, what holds when nothing is said."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from chunkyd.settings import (
    Control,
    Delete,
    Folder,
    Keep,
    Move,
    Remote,
    Uploads,
    changed_needing_restart,
    load_daemon,
    parse_timetable,
)

from .helpers import MINIMAL, daemon, refusal

EXAMPLE = """\
server:
  url: https://files.example.org/prefix/
  token_file: /etc/chunkyd/token
  ca_file: ca.pem
  proxy: http://proxy.example.org:3128
state_dir: /var/lib/chunkyd
folders:
  - path: /srv/footage
    include: ["*.mov", "*.mp4"]
    exclude: [".cache/", "*.part"]
    settle: 5s
    after_upload: keep
    priority: 10
  - {path: /srv/dumps/, name: db, after_upload: {move: /srv/sent}, rescan: 5m, poll: true}
  - {path: ~/outbox, after_upload: delete}
uploads:
  workers: 3
  parallel_chunks: 8
  chunk_size: 8MiB
  bandwidth: "08:00,2MiB/s 18:00,unlimited sun-00:00,pause"
  retry: {attempts: 7, base: 2s, max: 10m}
  verify: always
control: {socket: /run/chunkyd/control.sock, group: chunkyd}
log: {level: debug, format: json}
"""


def test_everything_is_read(tmp_path: Path) -> None:
    """Every key of a whole config arrives in the settings, in seconds, bytes and absolute paths."""
    settings = daemon(tmp_path, EXAMPLE, {"HOME": "/home/ada"})
    assert settings.server == Remote(
        url="https://files.example.org/prefix",
        token_file="/etc/chunkyd/token",
        ca_file=f"{tmp_path}/ca.pem",
        proxy="http://proxy.example.org:3128",
    )
    assert settings.folders == (
        Folder("/srv/footage", "footage", ("*.mov", "*.mp4"), (".cache/", "*.part"), 5.0, Keep(), 10),
        Folder("/srv/dumps", "db", after_upload=Move("/srv/sent"), rescan=300.0, poll=True),
        Folder("/home/ada/outbox", "outbox", after_upload=Delete()),
    )
    assert settings.uploads.chunk_size == 8 << 20
    assert settings.uploads.bandwidth == parse_timetable("08:00,2MiB/s 18:00,unlimited sun-00:00,pause")
    assert (settings.uploads.retry.attempts, settings.uploads.retry.base, settings.uploads.retry.max) == (7, 2.0, 600.0)
    assert settings.control == Control("/run/chunkyd/control.sock", "chunkyd")
    assert (settings.uploads.verify, settings.log.level, settings.log.format) == ("always", "debug", "json")


def test_little_is_enough(tmp_path: Path) -> None:
    """A server and a folder are a config; the rest has defaults, sections left empty included."""
    settings = daemon(tmp_path, MINIMAL + "uploads:\ncontrol:\nlog:\n")
    assert settings == daemon(tmp_path, MINIMAL)
    assert settings.folders == (Folder("/srv/footage", "footage"),)
    assert settings.uploads == Uploads()
    assert settings.folders[0].settle == 5.0
    assert settings.folders[0].rescan == 3600.0
    assert settings.folders[0].poll is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  settel: 5s", "folders[0].settel: unknown key; did you mean 'settle'?"),
        ("  Settle: 5s", "folders[0].Settle: unknown key; did you mean 'settle'?"),
        ("  after-upload: keep", "folders[0].after-upload: unknown key; did you mean 'after_upload'?"),
        ("  colour: red", "folders[0].colour: unknown key. Known here: path, name, include"),
        ("folder: x", "folder: unknown key; did you mean 'folders'?"),
        ("  settle: 5", "folders[0].settle: '5' is not a duration: which unit?"),
        ("  settle: 1:30", "folders[0].settle: '1:30' is not a duration: hours and minutes"),
        ("  settle: [5s]", "folders[0].settle: takes one value, not a list"),
        ("  settle: {}", "folders[0].settle: takes one value, not a map"),
        ("  settle:", "folders[0].settle: has no value"),
        ("  rescan: 0", "folders[0].rescan: takes 1s at least, not '0'"),
        ("  poll: maybe", "folders[0].poll: takes true or false, not 'maybe'"),
        ("  include: '*.mov'", "folders[0].include: takes a list"),
        ("  include: [a, [b]]", "folders[0].include[1]: takes one value, not a list"),
        ("  exclude: [a, '']", "folders[0].exclude[1]: is empty"),
        ("  include: [a, ' ']", "folders[0].include[1]: is blank"),
        ("  exclude: ['a\\']", "folders[0].exclude[0]: a pattern cannot be understood"),
        ("  include: ['[z-a]']", "folders[0].include[0]: a pattern cannot be understood"),
        ("  priority: high", "folders[0].priority: takes a whole number, not 'high'"),
        ("  priority: 1.5", "folders[0].priority: takes a whole number"),
        ("  priority: 99999999999999999999", "folders[0].priority: takes a whole number"),
        ("  name: a/b", "folders[0].name: 'a/b' cannot be the name"),
        ("  name: ..", "folders[0].name: '..' cannot be the name"),
        ("  name: ''", "folders[0].name: is empty"),
        ("  name: " + "é" * 128, "folders[0].name: the name has more than 255 bytes"),
        ('  name: "a\\0b"', "folders[0].name: holds a NUL"),
        ('  name: "a\\ud800b"', "folders[0].name: holds half a character"),
        ("  after_upload: move", "folders[0].after_upload: takes keep, delete or {move: FOLDER}"),
        ("  after_upload: [keep]", "folders[0].after_upload: takes keep, delete or {move: FOLDER}"),
        ("  after_upload: {mov: /x}", "folders[0].after_upload.mov: unknown key; did you mean 'move'?"),
        ("  after_upload: {}", "folders[0].after_upload.move: missing"),
        ("- {}", "folders[1].path: missing"),
        ("- path:", "folders[1].path: has no value"),
        ("- path: []", "folders[1].path: takes one value, not a list"),
        ("- /srv/b", "folders[1]: takes a map"),
        ("- path: ~nobody-has-this-name/x", "folders[1].path: there is no user 'nobody-has-this-name'"),
        ("- path: /", "folders[1].path: '' cannot be the name"),
        ("uploads: 5", "uploads: takes a map"),
        ("uploads: {workers: 0}", "uploads.workers: takes a whole number from 1 to 64, not 0"),
        ("uploads: {workers: two}", "uploads.workers: takes a whole number, not 'two'"),
        ("uploads: {chunk_size: 8M}", "uploads.chunk_size: '8M' is not a size: 8MiB"),
        ("uploads: {chunk_size: 1}", "uploads.chunk_size: takes auto, or a size from 1KiB"),
        ("uploads: {bandwidth: 10MiB}", "uploads.bandwidth: '10MiB' is not a rate: write it per second"),
        ("uploads: {retry: {base: 10m}}", "uploads.retry.max: is less than uploads.retry.base"),
        ("uploads: {retry: {base: 0}}", "uploads.retry.base: takes 1ms at least"),
        ("uploads: {verify: never}", "uploads.verify: takes changed or always, not 'never'"),
        ("log: {level: INFO}", "log.level: takes debug, info, warning or error, not 'INFO'"),
        ("log: {format: xml}", "log.format: takes text or json, not 'xml'"),
        ("state_dir:", "state_dir: has no value"),
        ("control: {socket: /" + "x" * 107 + "}", "control.socket: "),
        ("control: {group: ''}", "control.group: is empty"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, message: str) -> None:
    """Every mistake is refused with file, line, key and what was expected."""
    assert refusal(tmp_path, MINIMAL + line + "\n").startswith(f"config.yaml:4: {message}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://h", "begins with https:// or http://"), ("files.example.org", "begins with https://"),
        ("https://", "names no host"), ("https://h:99999", "Port out of range"), ("https://h:0", "no port 0"),
        ("https://[::1", "Invalid IPv6"), ("https://u:hunter2@h", "holds a user or password"),
        ("https://h/?q", "'?' or '#'"), ("https://h/#x", "'?' or '#'"), ("'https://h/a b'", "a space"),
        ("http://files.example.org", "plain http"), ("http://10.0.0.1:8420", "allow_plain: true"),
        ("http://localhost.example.org", "plain http"),
    ],
)  # fmt: skip
def test_urls_that_are_refused(tmp_path: Path, url: str, said: str) -> None:
    """A URL that names no chunky server, or would show the token to the network, is refused; passwords stay unsaid."""
    message = refusal(tmp_path, f"server:\n  url: {url}\nfolders: [{{path: /srv/a}}]")
    assert message.startswith("config.yaml:2: server.url: ")
    assert said in message
    assert "hunter2" not in message


@pytest.mark.parametrize("host", ["127.0.0.1:8420", "localhost", "LOCALHOST:1", "[::1]:8420", "127.8.8.8"])
def test_plain_http_on_this_machine(tmp_path: Path, host: str) -> None:
    """On the loopback there is no network to be careful of."""
    assert (
        daemon(tmp_path, f"server: {{url: 'http://{host}/'}}\nfolders: [{{path: /a}}]").server.url == f"http://{host}"
    )


def test_plain_http_can_be_allowed(tmp_path: Path) -> None:
    """Who says so may send in the clear."""
    text = "server: {url: http://10.0.0.1, allow_plain: true}\nfolders: [{path: /a}]"
    assert daemon(tmp_path, text).server.allow_plain


@pytest.mark.parametrize("text", ["", "server: {url: https://h}", "server: {url: https://h}\nfolders: []"])
def test_nothing_to_do_is_refused(tmp_path: Path, text: str) -> None:
    """Without a server or a folder there is no daemon."""
    assert refusal(tmp_path, text).startswith(("config.yaml:1: server.url: missing", "config.yaml:1: folders: ",
                                               "config.yaml:2: folders: there is nothing to watch"))  # fmt: skip


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    """Two roots that would arrive under one name are refused until one is named."""
    message = refusal(tmp_path, MINIMAL + "- path: /mnt/footage\n")
    assert message.startswith("config.yaml:4: folders[1]: /srv/footage and /mnt/footage would both arrive as 'footage'")
    assert "name:" in message
    assert len(daemon(tmp_path, MINIMAL + "- {path: /mnt/footage, name: mnt}\n").folders) == 2


@pytest.mark.parametrize(
    "other", ["/srv/footage", "/srv/footage/", "//srv/footage/raw", "/srv", "/srv/x/../footage/raw"]
)
def test_nested_roots(tmp_path: Path, other: str) -> None:
    """A root inside another, either way round, is refused: its files would be sent twice."""
    message = refusal(tmp_path, MINIMAL + f"- {{path: {other}, name: other}}\n")
    assert message.startswith("config.yaml:4: folders[1]: ")
    assert "one inside the other" in message


def test_neighbours_are_not_nested(tmp_path: Path) -> None:
    """A root whose name begins like another's is its neighbour."""
    assert len(daemon(tmp_path, MINIMAL + "- path: /srv/footage2\n- path: /srv/foot\n").folders) == 3


def test_nested_by_a_symbolic_link(tmp_path: Path) -> None:
    """A root that is inside another only by a symbolic link is refused too."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    text = "server: {url: https://h}\nfolders: [{path: a}, {path: b/c}]"
    assert "one inside the other" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("state_dir: /srv/footage", "state_dir /srv/footage"),
        ("state_dir: /srv/footage/.chunkyd", "state_dir /srv/footage/.chunkyd"),
        ("  after_upload: {move: /srv/footage/sent}", "the move target /srv/footage/sent"),
        ("- {path: /srv/b, after_upload: {move: /srv/footage/b}}", "the move target /srv/footage/b"),
    ],
)
def test_own_files_are_not_watched(tmp_path: Path, more: str, said: str) -> None:
    """The daemon's state and what was sent already are never inside a root."""
    message = refusal(tmp_path, MINIMAL + more + "\n")
    assert message.startswith(f"config.yaml:3: folders[0]: {said} is inside the watched /srv/footage")


def test_token_is_not_watched(tmp_path: Path) -> None:
    """A token inside a root would be uploaded, and is refused."""
    text = "server: {url: https://h, token_file: in/token}\nfolders: [{path: in}]"
    assert "token_file" in refusal(tmp_path, text)


def test_missing_folder_is_no_mistake(tmp_path: Path) -> None:
    """A root that is not there yet is waited for, not refused."""
    assert daemon(tmp_path, "server: {url: https://h}\nfolders: [{path: not/there}]").folders[0].path == str(
        tmp_path / "not/there"
    )


def test_relative_paths_belong_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is below the config file's folder, wherever the program was started and however it was named."""
    (tmp_path / "config.yaml").write_text("server: {url: https://h}\nfolders: [{path: in}]\nstate_dir: ./state/../s")
    monkeypatch.chdir(tmp_path.parent)
    settings = load_daemon(os.path.join(tmp_path.name, "config.yaml"), {})
    assert (settings.folders[0].path, settings.state_dir) == (f"{tmp_path}/in", f"{tmp_path}/s")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """A root whose name is not UTF-8 can be written with an escape, and is the very bytes on disk."""
    settings = daemon(tmp_path, 'server: {url: https://h}\nfolders: [{path: "/srv/\\uDCFF"}]')
    assert os.fsencode(settings.folders[0].path) == b"/srv/\xff"


def test_what_needs_a_restart(tmp_path: Path) -> None:
    """A reload tells state folder, socket and its group from what can change while the daemon runs."""
    old = daemon(tmp_path, MINIMAL)
    live = msgspec.structs.replace(old, uploads=Uploads(workers=9), folders=(), server=Remote("https://other"))
    moved = msgspec.structs.replace(old, state_dir="/else", control=Control("/else.sock", "staff"))
    assert changed_needing_restart(old, live) == []
    assert changed_needing_restart(old, moved) == ["state_dir", "control.socket", "control.group"]
