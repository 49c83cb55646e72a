"""Answers that are not what was promised: a proxy's, a portal's, cut, changed, late, doubled; at every step."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping

import pytest

from tests.faults.storm import CHUNKS, At, Script, Storm, status_prelude
from tests.upload.netfaults import Answer, Corrupt, Fault, Rewrite, Swallow, Twice, flipped

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
    else:
        assert case.counts[step] >= 2


def test_no_trace_of_any(storm: Storm) -> None:
    """Neither program logs a traceback; initiates repeated have made no session that is left."""
    for program in (storm.daemon, storm.server):
        assert "Traceback" not in program.text()


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
    corrupted.check(name, interruptions=4)
