"""Answers that are not what was promised: a proxy's, a portal's, cut, changed, late, doubled; at every step."""

from __future__ import annotations

import contextlib
import functools
import gzip
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from chunkyd.errors import NetworkError
from chunkyd.protocol.messages import Initiate
from chunkyd.upload import Client
from tests.e2e.programs import Server, running
from tests.faults.storm import CHUNKS, At, Script, Storm, status_prelude
from tests.upload.faultproxy import FaultProxy
from tests.upload.netfaults import Answer, Corrupt, Fault, Mangle, Rewrite, Swallow, Twice, flipped

STEPS = ("initiate", "chunk", "status", "end")
RETRY = (("Retry-After", "1"), ("Content-Type", "text/html"))


def with_body(change: Callable[[bytes], bytes], *headers: bytes) -> Fault:
    """The answer with another body, and headers beside."""

    def changed(answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        made = change(body)
        if not any(line.lower().startswith(b"transfer-encoding") for line in headers):
            kept.append(b"Content-Length: %d" % len(made))
        return b"\r\n".join([*kept, *headers]) + b"\r\n\r\n" + made

    return Rewrite(changed)


def chunked(body: bytes) -> bytes:
    """As a proxy that does not know the length before passes it on."""
    return b"%x\r\n%b\r\n%x;ext=1\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])


# Harmless: what comes is the answer, in another dress.
DRESSED: Mapping[str, Fault] = {
    "chunked": with_body(chunked, b"Transfer-Encoding: chunked"),
    "gzip": with_body(gzip.compress, b"Content-Encoding: gzip"),
    "gzip-chunked": with_body(
        lambda body: chunked(gzip.compress(body)), b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"
    ),
    "100-continue": Rewrite(lambda answer: b"HTTP/1.1 100 Continue\r\n\r\n" + answer),
    "103-early-hints": Rewrite(lambda answer: b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer),
    "102-twice": Rewrite(lambda answer: b"HTTP/1.1 102 Processing\r\n\r\n" * 2 + answer),
    "twice": Twice(),
}
# No answer at all, as far as the protocol goes: the same again.
USELESS: Mapping[str, Fault] = {
    "captive-portal": Answer(200, linger=0.2),
    "portal-after-the-work": with_body(lambda body: b"<html>Welcome</html>"),
    "lost-after-the-work": Swallow(),
    "cut-json": with_body(lambda body: body[:-4]),
    "no-length": Rewrite(lambda answer: answer.replace(b"content-length:", b"connection: close\r\nx:")),
    "first-line-broken": Rewrite(lambda answer: flipped(answer, 2)),
    "not-http": Rewrite(lambda answer: b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n"),
    "another-shape": with_body(lambda body: b"[1, 2]"),
    "gzip-broken": with_body(lambda body: b"\x1f\x8b\x08broken", b"Content-Encoding: gzip"),
    "of-another-request": Rewrite(lambda answer: answer.replace(b"chunky-request-id: ", b"chunky-request-id: no")),
    "bytes-too-much": with_body(lambda body: body + b"\x00garbage"),
    **{str(status): Answer(status, linger=0.2) for status in (408, 425, 429, 500, 502, 503, 504, 511)},
    **{f"{status}-retry": Answer(status, headers=RETRY, linger=0.2) for status in (425, 429, 503)},
    "204": Answer(204, b""),
    "206": Answer(206, b"{}"),
}
CASES: Mapping[str, Script] = {
    f"{step}-{name}": (*([status_prelude()] if step == "status" else []), At(step, fault))
    for step in STEPS
    for name, fault in {**DRESSED, **USELESS}.items()
}


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """All of them at once."""
    return Storm(tmp_path_factory.mktemp("answers"), CASES).rage(60)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_like_no_other(storm: Storm, name: str) -> None:
    """Every file arrives once, whole, by itself; and a dressed answer costs no second request."""
    case = storm.check(name, interruptions=len(CASES[name]))
    step, _, kind = name.partition("-")
    if kind in DRESSED:
        assert case.counts["initiate"] == 1
        # After the last chunk the server may say "verifying": then its status, and the end, are asked again.
        assert step == "status" or case.steps[: CHUNKS + 1] == ["initiate"] + ["chunk"] * CHUNKS
        assert step == "status" or case.counts["chunk"] == CHUNKS
    elif step == "chunk":
        assert case.counts["status"] >= 1  # what the server has is asked, not believed
    elif step == "initiate":
        assert case.counts[step] == 2
    else:  # both chunks lost before make the status be asked twice now and then, and uploads end each other's sessions
        assert case.counts[step] >= 2


def test_no_trace_of_any(storm: Storm) -> None:
    """Neither program logs a traceback; initiates repeated have made no session that is left."""
    for program in (storm.daemon, storm.server):
        assert "Traceback" not in program.text()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultProxy, Client]]:
    """A client that makes single requests."""
    server = Server(tmp_path_factory.mktemp("asked"))
    with running(server), FaultProxy(server.port) as proxy, contextlib.closing(Client(proxy.url)) as client:
        yield proxy, client


def asking(client: Client, step: str, name: str) -> tuple[Callable[[], object], object]:
    """A single request of this step, and its answer."""
    if step == "limits":
        return client.limits, client.limits()
    wanted, key = Initiate("0" * 64, 1000, f"{step}-{name}".encode()), f"{step}-{name}"
    opened = client.initiate(wanted, key)
    match step:
        case "initiate":
            return lambda: client.initiate(wanted, key), opened
        case "status":
            ask = functools.partial(client.status, opened.session_id, wanted.file_hash, 1000)
            return ask, ask()
    return lambda: client.end(opened.session_id, wanted.file_hash), name != "twice"  # there the first time only


@pytest.mark.parametrize("step", ["limits", "initiate", "status", "end"])
@pytest.mark.parametrize("name", [*DRESSED, *USELESS])
def test_the_answer_to_one_request(asked: tuple[FaultProxy, Client], step: str, name: str) -> None:
    """Dressed it is what it was, by one request; any other is a trouble of the network, with the wait it asks for."""
    proxy, client = asked
    ask, expected = asking(client, step, name)
    before = len(proxy.requests)
    proxy.plan = lambda seen: {**DRESSED, **USELESS}[name]
    try:
        if name in DRESSED:
            assert ask() == expected
        else:
            with pytest.raises(NetworkError) as caught:
                ask()
            assert caught.value.retry_after == (1.0 if name.endswith("-retry") else None)
    finally:
        proxy.plan = lambda seen: None
    assert len(proxy.requests) == before + 1


CORRUPT: Mapping[str, Script] = {
    **{f"chunk-at-{at}": (At("chunk", Corrupt(at)),) for at in (0, 1000, 262_143)},
    **{f"initiate-at-{at}": (At("initiate", Corrupt(at)),) for at in range(0, 100, 9)},
    **{
        f"answer-{step}-{place}": (
            *([status_prelude()] if step == "status" else []),
            At(step, Rewrite(lambda answer, place=place: flipped(answer, -place, place % 7))),  # type: ignore[misc]
        )
        for step in STEPS
        for place in range(1, 18, 2)
    },
}


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """All of them at once."""
    return Storm(tmp_path_factory.mktemp("corrupted"), CORRUPT).rage(90)


@pytest.mark.parametrize("name", CORRUPT)
def test_bits_turned_on_the_way(corrupted: Storm, name: str) -> None:
    """A digest catches them in a body; an answer with a turned bit never makes another file of it."""
    case = corrupted.check(name, interruptions=4)
    if name.startswith("chunk-"):  # no session with a wrong byte in it had to be begun anew
        assert (case.counts["initiate"], case.counts["chunk"]) == (1, CHUNKS + 1)
    elif name.startswith("initiate-"):
        assert (case.counts["initiate"], case.counts["chunk"]) == (2, CHUNKS)


def turned(marker: str, place: int = 0) -> Mangle:
    """A head with a bit turned so far behind this."""

    def change(head: bytes) -> bytes:
        return flipped(head, head.lower().index(marker.encode()) + len(marker) + place)

    return Mangle(change)


IN_ANY_HEAD: Mapping[str, Mangle] = {
    "method": turned("", 1),
    "path": turned(" /", 3),
    "version": turned(" http/1."),
    "host": turned("\r\nhost: ", 2),
    "line-end": turned("\r\n"),
    "content-length": turned("\r\ncontent-len"),
    "content-digest": turned("\r\ncontent-digest: crc32c=:", 2),
}
IN_A_CHUNKS: Mapping[str, Mangle] = {
    **{name: turned(f"\r\n{name[:-2]}") for name in ("chunky-session", "chunky-file-hash", "content-range")},
    "session": turned("\r\nchunky-session: ", 5),
    "hash": turned("\r\nchunky-file-hash: ", 9),
    "range": turned("\r\ncontent-range: bytes "),
    "length": turned("\r\ncontent-length: "),
}
HEADS: Mapping[str, Script] = {
    **{f"initiate-{name}": (At("initiate", fault),) for name, fault in IN_ANY_HEAD.items()},
    **{f"chunk-{name}": (At("chunk", fault),) for name, fault in {**IN_ANY_HEAD, **IN_A_CHUNKS}.items()},
}


@pytest.fixture(scope="module")
def mangled(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """All of them at once."""
    return Storm(tmp_path_factory.mktemp("mangled"), HEADS).rage(90, mangled=True)


@pytest.mark.parametrize("name", HEADS)
def test_a_bit_turned_in_a_head(mangled: Storm, name: str) -> None:
    """No digest covers a head: asked for again, or begun anew, or refused in words until a retry; never wrong."""
    mangled.check(name, interruptions=4)
    if name in mangled.refused:
        assert mangled.refused[name].startswith(("Malformed request: ", "Forbidden: ")), mangled.refused


def test_a_head_that_says_another_thing_is_refused(tmp_path: Path) -> None:
    """The server cannot tell it from one that was meant so: the job fails, and arrives after a retry."""
    name = "initiate-host"
    storm = Storm(tmp_path, {name: HEADS[name]}).rage(30, mangled=True)  # alone: no other's fault takes its connection
    assert storm.refused[name].startswith("Forbidden: ")
    assert storm.check(name, interruptions=0).counts["initiate"] == 2
