"""Connections that break: in every phase of a request, at every step of an upload, by a reset, an end or silence."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Literal, get_args

import pytest

from tests.faults.storm import CHUNKS, At, Script, Storm, status_prelude, verify_prelude
from tests.upload.netfaults import Break

Where = Literal["head", "body", "work", "answer", "idle"]
STEPS = ("initiate", "chunk", "last chunk", "status", "verify wait", "end")


def script(step: str, where: Where, how: Literal["reset", "close", "silence"]) -> Script:
    """What leads to the step, and the break there."""
    after = 100_000 if where == "body" and "chunk" in step else 0
    fault = Break(where, how, after)
    match step:
        case "status":
            return (status_prelude(), At("status", fault))
        case "verify wait":
            return (verify_prelude(), At("status", fault))
        case "last chunk":
            return (At("chunk", fault, CHUNKS),)
    return (At(step, fault),)


def scripts(hows: tuple[str, ...]) -> Mapping[str, Script]:
    """All that there is: a request without a body has no middle of one."""
    return {
        f"{step} {where} {how}".replace(" ", "-"): script(step, where, how)
        for step, where, how in product(STEPS, get_args(Where), hows)
        if where != "body" or "chunk" in step
    }


BROKEN = scripts(("reset", "close"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Every connection that is broken off, at once."""
    return Storm(tmp_path_factory.mktemp("broken"), BROKEN).rage(60)


@pytest.mark.parametrize("name", BROKEN)
def test_a_connection_broken_off(broken: Storm, name: str) -> None:
    """Whole, once, and without anybody's help; no more is sent again than was on its way."""
    broken.check(name, interruptions=len(BROKEN[name]))


def test_nobody_stumbles(broken: Storm) -> None:
    """Neither program logs a traceback, and every session is ended."""
    for program in (broken.daemon, broken.server):
        assert "Traceback" not in program.text()
