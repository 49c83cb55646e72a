"""`chunky-server`'s commands beside a running server, and its tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.server.process import ServerProcess, serving, wait_until


def test_users_and_tokens(tmp_path: Path) -> None:
    """A token printed alone on the last line opens the door; revoked, it is dead within a second or so."""
    server = ServerProcess(tmp_path, auth="tokens")
    token = server.command("user", "add", "cam1").stdout.splitlines()[-1]
    with serving(tmp_path, auth="tokens") as server:
        cam1 = server.client(token)
        session = cam1.upload(b"hello", b"f")
        assert server.file("f", "cam1").read_bytes() == b"hello"
        second = server.command("token", "add", "--user", "cam1", "--note", "spare").stdout.splitlines()[-1]
        assert server.client(second).request("GET", "/uploadStatus", **session.keys).status == 200
        listed = json.loads(server.command("token", "list", "--json").stdout)["tokens"]
        assert [(row["user"], row["note"]) for row in listed] == [("cam1", ""), ("cam1", "spare")]
        assert token not in json.dumps(listed)
        assert server.command("token", "revoke", listed[0]["id"]).returncode == 0
        wait_until(lambda: cam1.request("GET", "/uploadStatus", **session.keys).problem == "unauthorized", 4)
        assert server.client(second).request("GET", "/uploadStatus", **session.keys).status == 200
        assert token not in server.log() and second not in server.log()


def test_who_is_not_let_in(tmp_path: Path) -> None:
    """No, a wrong, a malformed and a doubled authorization; too many of them from one address; the door stays open."""
    server = ServerProcess(tmp_path, auth="tokens")
    token = server.command("user", "add", "u").stdout.splitlines()[-1]
    other = server.command("user", "add", "v").stdout.splitlines()[-1]
    with serving(tmp_path, auth="tokens") as server:
        user = server.client(token)
        session = user.initiate(b"hello", b"f")
        nobody = server.client()
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {token}"}):
            reply = nobody.request("GET", "/uploadStatus", **session.keys, **headers)
            assert (reply.status, reply.problem) == (401, "unauthorized")
            assert reply.headers["www-authenticate"].startswith("Bearer")
        line = f"Authorization: Bearer {token}\r\n"
        doubled = user.raw(f"GET /uploadStatus HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n".encode())
        assert doubled.startswith(b"HTTP/1.1 400 ") and b"malformed-request" in doubled
        assert nobody.request("GET", "/healthz").status == nobody.request("OPTIONS", "*").status == 200
        foreign = server.client(other)
        unknown = foreign.request("GET", "/uploadStatus", Chunky_Session="0" * 32, Chunky_File_Hash=session.file_hash)
        theirs = foreign.request("GET", "/uploadStatus", **session.keys)
        assert theirs.json == unknown.json and theirs.status == 404
        assert foreign.request("POST", "/endUpload", **session.keys).problem == "session-not-found"
        wait_until(lambda: nobody.request("GET", "/uploadStatus", **session.keys).problem == "rate-limited")
        assert "retry-after" in nobody.request("GET", "/uploadStatus", **session.keys).headers
        assert session.put(0, 5).status == 200


def test_quota(tmp_path: Path) -> None:
    """A user's allowance: quota-exceeded with the members; the space of a cancelled session is given back."""
    with serving(tmp_path, limits={"reserve": "0B", "per_user": {"local": "1000B"}}) as server:
        client = server.client()
        first = client.initiate(os.urandom(600), b"a")
        reply = client.initiate(os.urandom(600), b"b").reply
        assert (reply.status, reply.problem) == (507, "quota-exceeded")
        assert (reply.json["requiredBytes"], reply.json["availableBytes"]) == (600, 400)
        first.end()
        assert client.initiate(os.urandom(600), b"b").reply.status == 201


def test_sessions_are_shown_and_expired(tmp_path: Path) -> None:
    """Beside a running server; an expired one is gone there within seconds, and its partial too."""
    with serving(tmp_path, limits={"reserve": "0B", "session_ttl": "3s"}) as server:
        session = server.client().initiate(b"x" * 100, b"dir/\xff")
        session.put(0, 30)
        (row,) = json.loads(server.command("sessions", "list", "--json").stdout)["sessions"]
        assert (row["id"], row["bytesDone"], row["bytesTotal"], row["state"]) == (session.id, 30, 100, "receiving")
        assert row["pathBytes"] == "ZGlyL/8="
        shown = json.loads(server.command("sessions", "show", session.id[:8], "--json").stdout)
        assert shown == {**row, "expiresAt": shown["expiresAt"]}
        assert server.command("sessions", "expire", session.id).returncode == 0
        wait_until(lambda: session.status().problem == "session-expired", 5)
        wait_until(lambda: not (server.data / "partial" / session.id).exists(), 5)
        missing = server.command("sessions", "show", "nope")
        assert missing.returncode == 2 and "nope" in missing.stderr


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    """Damaged, missing and unknown files, beside a running server; exit 1 for what is lost, 0 for what is unknown."""
    with serving(tmp_path) as server:
        client = server.client()
        for name in (b"good", b"rotten", b"gone"):
            client.upload(os.urandom(1000), name)
        assert server.command("verify").returncode == 0
        server.file("stray").write_bytes(b"?")
        assert server.command("verify").returncode == 0
        server.file("gone").unlink()
        assert server.command("verify").returncode == 1
        rotten = server.file("rotten")
        status = rotten.stat()
        with rotten.open("r+b") as file:
            file.write(b"rot")
        os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))
        checked = server.command("verify", "--json")
        assert checked.returncode == 1
        document = json.loads(checked.stdout)
        assert document["good"] == 1
        assert {(row["verdict"], row["path"]) for row in document["findings"]} == {
            ("damaged", "rotten"),
            ("missing", "gone"),
            ("unknown", "stray"),
        }


def test_room_is_made_by_hand(tmp_path: Path) -> None:
    """What an administrator has deleted counts towards the allowance until it is taken off the record; then no more."""
    with serving(tmp_path, limits={"reserve": "0B", "per_user": {"local": "1000B"}}) as server:
        client = server.client()
        client.upload(os.urandom(600), b"old")
        server.file("old").unlink()
        assert client.initiate(os.urandom(600), b"new").reply.problem == "quota-exceeded"
        assert server.command("verify").returncode == 1
        assert client.initiate(os.urandom(600), b"new").reply.problem == "quota-exceeded"
        assert "missing" in server.command("verify", "--forget-missing").stdout
        assert client.initiate(os.urandom(600), b"new").reply.status == 201
        assert server.command("verify").returncode == 0


def test_check_config_and_bad_ones(tmp_path: Path) -> None:
    """The effective configuration is printed; a bad one is exit 78 with the line; wrong use is 2."""
    server = ServerProcess(tmp_path)
    good = server.command("check-config")
    assert good.returncode == 0 and str(server.data) in good.stdout
    server.settings["limitz"] = {}
    bad = server.command("check-config")
    assert bad.returncode == 78 and "limitz" in bad.stderr and "server.yaml" in bad.stderr
    assert server.command("run").returncode == 78
    assert server.command("nonsense").returncode == 2


@pytest.mark.parametrize("arguments", [("user", "add", "../x"), ("token", "add", "--user", "nobody")])
def test_wrong_users_are_wrong_use(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A name that cannot be one, or nobody's: exit 2, with a sentence."""
    server = ServerProcess(tmp_path, auth="tokens")
    server.command("user", "add", "somebody")
    answer = server.command(*arguments)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr and answer.stderr.count("\n") <= 3
