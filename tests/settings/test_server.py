"""chunky-server's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.settings import Limits, ServerSettings, Tls, load_server

from .helpers import refusal, server

EXAMPLE = """\
listen: "[::]:8420"
data_dir: data
auth: tokens
tls: {certificate: /etc/server.pem, key: server.key}
trusted_proxies: [10.0.0.5, 10.1.0.0/16, "fe80::1"]
limits: {file: 1TiB, chunk: 32MiB, session_ttl: 2h, session_age: 9d, reserve: 5GiB, per_user: {cam1: 100GiB, "2": 5}}
existing: keep
log: {level: warning, format: json}
"""


def test_everything_is_read(tmp_path: Path) -> None:
    """Every key of a whole config arrives in the settings."""
    settings = server(tmp_path, EXAMPLE)
    assert (settings.host, settings.port, settings.data_dir) == ("::", 8420, f"{tmp_path}/data")
    assert settings.tls == Tls("/etc/server.pem", f"{tmp_path}/server.key")
    assert settings.trusted_proxies == ("10.0.0.5", "10.1.0.0/16", "fe80::1")
    assert settings.limits == Limits(1 << 40, 32 << 20, 7200.0, 9 * 86400.0, 5 << 30, {"cam1": 100 << 30, "2": 5})
    assert (settings.existing, settings.log.level) == ("keep", "warning")


def test_nothing_is_enough(tmp_path: Path) -> None:
    """An empty config is a server on the loopback, with tokens."""
    settings = server(tmp_path, "", {"STATE_DIRECTORY": "/d"})
    assert settings == ServerSettings(data_dir="/d")
    assert (settings.host, settings.port, settings.auth) == ("127.0.0.1", 8420, "tokens")
    assert settings.limits == Limits(5 << 40, 64 << 20, 432000.0, None, 1 << 30, {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("listen: [::]:8420", "not YAML: "),
        ("listen: ::1:8420", "listen: takes HOST:PORT, not '::1:8420'"),
        ("listen: 8420", "listen: takes HOST:PORT, not '8420'"),
        ("listen: :8420", "listen: names no host. Write 0.0.0.0:8420"),
        ("listen: localhost:0", "listen: there is no port 0"),
        ("listen: localhost:65536", "listen: there is no port 65536"),
        ("listen: '[x]:1'", "listen: [x] is not an IPv6 address"),
        ("listen: '[]:1'", "listen: [] is not an IPv6 address"),
        ("port: 5", "port: unknown key"),
        ("host: h", "host: unknown key"),
        ("data-dir: /x", "data-dir: unknown key; did you mean 'data_dir'?"),
        ("auth: none", "auth: takes tokens or open, not 'none'"),
        ("tls: {certificate: /a}", "tls.key: missing"),
        ("tls: yes", "tls: takes a map"),
        ("tls:", "tls.certificate: missing"),
        ("trusted_proxies: [proxy]", "trusted_proxies[0]: not an address or network"),
        ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0]: not an address or network"),
        ("trusted_proxies: 10.0.0.1", "trusted_proxies: takes a list"),
        ("limits: {file: 0}", "limits.file: a limit of 0 would take nothing"),
        ("limits: {file: big}", "limits.file: 'big' is not a size"),
        ("limits: {session_ttl: none}", "limits.session_ttl: 'none' is not a duration"),
        ("limits: {session_ttl: 0}", "limits.session_ttl: takes 1ms at least"),
        ("limits: {per_user: [a]}", "limits.per_user: takes a map"),
        ("limits: {per_user: {cam1: x}}", "limits.per_user.cam1: 'x' is not a size"),
        ("limits: {per_user: {cam1: }}", "limits.per_user.cam1: has no value"),
        ("existing: delete", "existing: takes replace or keep, not 'delete'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, message: str) -> None:
    """Every mistake is refused with file, line, key and what was expected."""
    assert refusal(tmp_path, f"# a server\n{line}\n", load=load_server).startswith(f"config.yaml:2: {message}")


@pytest.mark.parametrize("listen", ["0.0.0.0:8420", '"[::]:8420"', "files.example.org:80", "192.168.1.2:1"])
def test_open_only_on_this_machine(tmp_path: Path, listen: str) -> None:
    """A server without tokens that others can reach is refused."""
    message = refusal(tmp_path, f"listen: {listen}\nauth: open\n", load=load_server)
    assert message.startswith("config.yaml:2: auth: an open server on ")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:8420", '"[::1]:8420"'])
def test_open_on_the_loopback(tmp_path: Path, listen: str) -> None:
    """On the loopback an open server is fine."""
    assert server(tmp_path, f"listen: {listen}\nauth: open\n").auth == "open"


def test_size_of_nothing_for_a_user(tmp_path: Path) -> None:
    """An allowance of 0 is an allowance: this user stores nothing."""
    assert server(tmp_path, "limits: {per_user: {guest: 0}}").limits.per_user == {"guest": 0}
