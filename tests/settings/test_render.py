"""The effective configuration as YAML."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chunkyd.settings import (
    Control,
    DaemonSettings,
    Delete,
    Folder,
    Keep,
    Limits,
    Log,
    Move,
    Remote,
    Retry,
    ServerSettings,
    Tls,
    Uploads,
    load_daemon,
    load_server,
    parse_timetable,
)
from chunkyd.settings.patterns import compiled
from chunkyd.settings.reader import keys_of
from chunkyd.settings.render import render

from . import test_daemon, test_server
from .helpers import daemon, server, written

CONFIG = Path(__file__).parents[2] / "config"


def _understood(pattern: str) -> bool:
    try:
        compiled((pattern,))
    except ValueError:
        return False
    return True


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip() == text
)
patterns = words.filter(_understood)
parts = st.one_of(
    st.sampled_from(
        ["yes", "null", "~", "010", "1e3", "a: b", "#x", "*x", "!x", "'", '"', "\udcff", "\ufeff", "08:00"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=60).filter(
        lambda part: part not in (".", "..")
    ),
)
paths = parts.map(lambda part: f"/r/{part}")
durations = st.integers(1000, 10**9).map(lambda milliseconds: milliseconds / 1000)
logs = st.builds(Log, st.sampled_from(["debug", "error"]), st.sampled_from(["text", "json"]))
folders = st.builds(
    Folder, paths, parts, st.tuples(patterns), st.tuples(patterns, patterns), durations,
    st.sampled_from([Keep(), Delete(), Move("/sent/x: y")]), st.integers(-9, 9), durations,
    st.sampled_from([None, True, False]),
)  # fmt: skip
daemons = st.builds(
    DaemonSettings,
    server=st.builds(Remote, st.just("https://h/x"), st.none() | paths.map("/t{}".format), st.none() | paths),
    state_dir=paths.map(lambda path: "/s" + path),
    folders=st.tuples(folders),
    uploads=st.builds(
        Uploads, st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1024, 1 << 30),
        st.sampled_from(["unlimited", "pause", "08:00,2MiB/s sun-00:00,pause"]).map(parse_timetable),
        st.builds(Retry, st.integers(1, 99), durations, st.just(10.0**6)), st.sampled_from(["changed", "always"]),
    ),
    control=st.builds(Control, st.just("/run/c.sock"), st.none() | st.just("staff")),
    log=logs,
)  # fmt: skip
servers = st.builds(
    ServerSettings,
    host=st.sampled_from(["127.0.0.1", "::1", "localhost"]), port=st.integers(1, 65535), data_dir=paths,
    auth=st.sampled_from(["tokens", "open"]), tls=st.none() | st.builds(Tls, paths, paths),
    trusted_proxies=st.sampled_from([(), ("::1", "10.0.0.0/8")]),
    limits=st.builds(
        Limits, st.integers(1, 2**62), st.integers(1, 2**62), durations, st.none() | durations, st.integers(0, 2**62),
        st.dictionaries(words, st.integers(0, 2**62), max_size=3),
    ),
    existing=st.sampled_from(["replace", "keep"]), log=logs,
)  # fmt: skip


@given(daemons)
def test_daemon_survives_rendering(settings: DaemonSettings) -> None:
    """Whatever chunkyd's settings are, their YAML loads to equal ones: odd names and YAML's traps included."""
    with tempfile.TemporaryDirectory() as folder:
        assert load_daemon(written(Path(folder), render(settings)), {}) == settings


@given(servers)
def test_server_survives_rendering(settings: ServerSettings) -> None:
    """Whatever the server's settings are, their YAML loads to equal ones."""
    with tempfile.TemporaryDirectory() as folder:
        assert load_server(written(Path(folder), render(settings)), {}) == settings


def test_examples_survive_rendering(tmp_path: Path) -> None:
    """Whole configs, defaults written out, load to equal settings."""
    settings = daemon(tmp_path, test_daemon.EXAMPLE)
    assert daemon(tmp_path, render(settings)) == settings
    assert server(tmp_path, render(server(tmp_path, test_server.EXAMPLE))) == server(tmp_path, test_server.EXAMPLE)


def test_shipped_configs_load(tmp_path: Path) -> None:
    """The configs that are shipped load as they are, and say nothing but the defaults."""
    shipped = load_daemon(str(CONFIG / "chunkyd.yaml"), {})
    least = daemon(tmp_path, "server: {url: https://files.example.org}\nfolders: [{path: /srv/footage}]")
    assert shipped == least
    assert load_server(str(CONFIG / "server.yaml"), {}) == server(tmp_path, "")


def test_commented_keys_load_too(tmp_path: Path) -> None:
    """The commented lines of the shipped configs, taken in, load as well: no example is a mistake."""
    for name, load in (("chunkyd.yaml", load_daemon), ("server.yaml", load_server)):
        lines = (CONFIG / name).read_text().splitlines()
        taken = [re.sub(r"^( *)# ( *\w+:)", r"\1\2", line) for line in lines[4:]]
        load(written(tmp_path, "\n".join(taken), name), {})


def test_no_secret_is_rendered(tmp_path: Path) -> None:
    """Neither a token nor a proxy's password is in what check-config prints."""
    (tmp_path / "token").write_text("hunter2")
    text = "server: {url: https://h, token_file: token, proxy: 'http://ada:hunter2@proxy:3128'}\nfolders: [{path: in}]"
    settings = daemon(tmp_path, text, {"CHUNKYD_TOKEN": "hunter2"})
    assert settings.server.proxy == "http://ada:hunter2@proxy:3128"
    assert "hunter2" not in render(settings)
    assert "http://ada:***@proxy:3128" in render(settings)


def test_every_key_is_documented() -> None:
    """docs/configuration.md knows every key of both programs."""
    page = (CONFIG.parent / "docs" / "configuration.md").read_text()
    shapes = (Remote, Folder, Uploads, Retry, Control, Log, Tls, Limits, DaemonSettings, ServerSettings)
    keys = {key for shape in shapes for key in keys_of(shape)} - {"host", "port"} | {"listen"}
    assert {key for key in keys if not re.search(rf"\b{key}\b", page)} == set()
