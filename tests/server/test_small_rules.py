"""Time, tokens, addresses, open mode, headers: the small pure parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.errors import Problem, UsageError
from chunkyd.server.auth import (
    FAILURES,
    Failures,
    Proxies,
    check_open_request,
    check_user_name,
    new_token,
    token_digest,
)
from chunkyd.server.headers import Head, Refused
from chunkyd.server.steady import SteadyTime


def test_steady_time_does_not_jump() -> None:
    """A step of the wall clock is seen, and moves the time only when it is followed."""
    clock = ManualClock(wall=1000.0)
    time = SteadyTime(clock)
    clock.advance(5)
    assert (time.now(), time.step()) == (1005.0, 0.0)
    clock.step_wall(86400)
    assert (time.now(), time.step()) == (1005.0, 86400.0)
    time.shift(86400)
    assert (time.now(), time.step()) == (87405.0, 0.0)


@pytest.mark.parametrize("host", ["localhost", "localhost:8420", "127.0.0.1", "127.8.8.8:1", "[::1]:8420", "LOCALHOST"])
def test_open_mode_answers_loopback_names(host: str) -> None:
    """Loopback names and addresses, with or without a port; the page's own origin is not foreign."""
    check_open_request(host, None, None)
    check_open_request(host, f"http://{host}", "same-origin")


@pytest.mark.parametrize(
    ("host", "origin", "site"),
    [
        (None, None, None),
        ("", None, None),
        ("evil.example", None, None),
        ("127.0.0.1.evil.example", None, None),
        ("localhost.evil.example:8420", None, None),
        ("10.0.0.1", None, None),
        ("user@localhost", None, None),
        ("localhost/x", None, None),
        ("localhost:port", None, None),
        ("localhost", "http://evil.example", None),
        ("localhost", "null", None),
        ("localhost:8420", "http://localhost:9999", None),
        ("localhost", "file://localhost", None),
        ("localhost", None, "cross-site"),
        ("localhost", "http://[", None),
    ],
)
def test_open_mode_refuses_what_a_web_page_could_send(host: str | None, origin: str | None, site: str | None) -> None:
    """Rebound names, foreign origins, cross-site requests: forbidden."""
    with pytest.raises(Problem) as caught:
        check_open_request(host, origin, site)
    assert caught.value.name == "forbidden"


def test_failures_are_limited_and_forgiven() -> None:
    """Some failures at once, then one a second, for each address by itself."""
    failures = Failures()
    assert all(failures.add("a", 0.0) for _ in range(FAILURES))
    assert not failures.add("a", 0.5)
    assert failures.add("b", 0.5)
    assert failures.add("a", 2.5)


def test_only_trusted_proxies_say_who_the_client_is() -> None:
    """X-Forwarded-For counts from the right, through trusted hops only; rubbish falls back to the peer."""
    proxies = Proxies(["10.0.0.0/8", "127.0.0.1"])
    assert proxies.client("127.0.0.1", ["1.2.3.4"]) == "1.2.3.4"
    assert proxies.client("127.0.0.1", ["6.6.6.6, 1.2.3.4, 10.1.1.1"]) == "1.2.3.4"
    assert proxies.client("9.9.9.9", ["1.2.3.4"]) == "9.9.9.9"
    assert proxies.client("127.0.0.1", ["bad\nvalue"]) == "127.0.0.1"
    assert proxies.client("127.0.0.1", []) == "127.0.0.1"


def test_tokens_are_long_random_and_kept_as_hashes() -> None:
    """Two tokens differ, and the record holds the digest alone."""
    (first, record), (second, _) = new_token("u", 1.0), new_token("u", 1.0)
    assert first != second and len(first) >= 43
    assert record.digest == token_digest(first) and first not in repr(record)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "ü", "a\0", "x" * 65, ".hidden"])
def test_names_of_users_are_plain(name: str) -> None:
    """What could be a path, an option or a riddle is refused."""
    with pytest.raises(UsageError):
        check_user_name(name)


def head(**values: str) -> Head:
    """A chunk's head with some values changed; an empty one is left out."""
    names = {
        "content_length": "4",
        "content_type": "application/octet-stream",
        "content_range": "bytes 0-3/10",
        "content_digest": "crc32c=:AAAAAA==:",
    } | values
    return Head((key.replace("_", "-").encode(), value.encode()) for key, value in names.items() if value)


def test_a_chunks_head_is_read() -> None:
    """Range half-open, total, length, digests."""
    chunk = head().chunk()
    assert (chunk.range, chunk.total, chunk.length, chunk.digests) == ((0, 4), 10, 4, {"crc32c": bytes(4)})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"content_length": ""}, 411),
        ({"transfer_encoding": "chunked"}, 411),
        ({"content_length": "+4"}, 400),
        ({"content_length": "٤"}, 400),
        ({"content_range": ""}, 400),
        ({"content_range": "bytes 3-0/10"}, 400),
        ({"content_range": "bytes */10"}, 400),
        ({"content_digest": ""}, 400),
        ({"content_digest": "md5=:AAAA:"}, 400),
        ({"content_digest": "crc32c=:AA:"}, 400),
    ],
)
def test_malformed_heads_are_said(changes: dict[str, str], status: int) -> None:
    """malformed-request, with 411 for a missing length."""
    with pytest.raises(Problem) as caught:
        head(**changes).chunk()
    assert (caught.value.name, caught.value.status) == ("malformed-request", status)


def test_another_content_type_is_refused() -> None:
    """415 is not in the table: about:blank."""
    with pytest.raises(Refused) as caught:
        head(content_type="text/plain").chunk()
    assert caught.value.status == 415


@pytest.mark.parametrize("name", ["Content-Range", "Content-Digest", "Content-Length"])
def test_doubled_headers_are_malformed(name: str) -> None:
    """Two values, even equal ones, are never a choice."""
    pairs = [(key, values[0]) for key, values in head()._values.items()]
    doubled = [(k.encode(), v.encode()) for k, v in [*pairs, *((k, v) for k, v in pairs if k == name.lower())]]
    with pytest.raises(Problem) as caught:
        Head(doubled).chunk()
    assert caught.value.name == "malformed-request"


def test_the_shared_vectors_of_content_range_hold_here() -> None:
    """What the client's encoder is tested with, the server's head reads the same way, or refuses."""
    path = Path(__file__).parent.parent / "protocol" / "vectors" / "content-range.json"
    vectors = json.loads(path.read_text(encoding="utf-8"))
    for vector in vectors["good"]:
        chunk = head(content_range=vector["header"]).chunk()
        assert chunk.range == (int(vector["first"]), int(vector["last"]) + 1)
        assert chunk.total == int(vector["total"])
    for vector in vectors["bad"]:
        text = vector if isinstance(vector, str) else vector["header"]
        with pytest.raises(Problem) as caught:
            head(content_range=text or " ").chunk()
        assert caught.value.name == "malformed-request"
