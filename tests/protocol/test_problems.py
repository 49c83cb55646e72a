"""The table of problems and its documents, against the shared vectors."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.problems import LENGTH_REQUIRED, TABLE, TYPE_PREFIX, Action, from_document, problem, to_document
from tests.protocol.shared import label, vectors

VECTORS = vectors("problems.json")


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_both_ends_write_and_read_each_row(case: dict[str, Any]) -> None:
    """The document a server writes is the vector's, and a client reads status, title, action and members from it."""
    expected = json.loads(case["body"])
    raised = problem(
        case["name"], expected["detail"], status=case["status"], retry_after=case["retryAfter"], **case["members"]
    )
    assert json.loads(to_document(raised)) == expected
    received = from_document(case["status"], case["body"].encode(), case["retryAfter"])
    assert received is not None
    assert vars(received) == vars(raised)


def test_every_row_has_a_vector_and_only_those() -> None:
    """The table and the vectors name the same problems, with the same status, title, action and retryable."""
    rows = {(kind.name, kind.status, kind.title, kind.action, kind.retryable) for kind in TABLE.values()}
    documents = [json.loads(case["body"]) for case in VECTORS["good"] if case["status"] != LENGTH_REQUIRED]
    assert rows == {
        (d["type"].removeprefix(TYPE_PREFIX), d["status"], d["title"], d["action"], d["retryable"]) for d in documents
    }


def test_the_list_of_actions_is_closed() -> None:
    """Every row has an action of the list, every action has a row, and only what may work later is retryable."""
    assert {kind.action for kind in TABLE.values()} == set(get_args(Action))
    assert {kind.action for kind in TABLE.values() if kind.retryable} == {"retry", "wait", "smaller-chunks"}


def test_each_problem_says_what_to_do() -> None:
    """Where no detail is given, the row's advice is said: one sentence or two, for a person."""
    for kind in TABLE.values():
        assert kind.advice.endswith(".") and kind.advice[0].isupper()
        assert kind.advice in str(problem(kind.name, ""))


@pytest.mark.parametrize("case", VECTORS["tolerated"], ids=lambda case: label(case["why"]))
def test_a_client_believes_the_table_not_the_document(case: dict[str, Any]) -> None:
    """Of a foreign document only type, detail and sane members count."""
    received = from_document(case["status"], case["body"].encode())
    assert received is not None
    kind = TABLE[case["name"]]
    assert (received.name, received.action, received.retryable) == (kind.name, kind.action, kind.retryable)
    assert received.members == case["members"]
    assert received.detail == (case["detail"] if case["detail"] is not None else kind.advice)


@pytest.mark.parametrize("case", VECTORS["notProblems"], ids=lambda case: label(case["why"]))
def test_what_is_no_problem_of_ours_is_none(case: dict[str, Any]) -> None:
    """A proxy's page, another's problem, a status that does not fit: none of them is a problem of the table."""
    assert from_document(case["status"], case["body"].encode()) is None


@given(
    st.sampled_from(sorted(TABLE)),
    st.text(min_size=1),
    st.dictionaries(st.text(), st.integers(0, 2**63 - 1) | st.text()),
)
def test_any_detail_and_members_come_back(name: str, detail: str, members: dict[str, int | str]) -> None:
    """A problem with any text and any members arrives as it was raised; members never replace what is fixed."""
    fixed = {"type", "title", "status", "detail", "action", "retryable", "name", "retry_after"}
    raised = problem(name, detail, **{key: value for key, value in members.items() if key not in fixed})  # type: ignore[arg-type]
    received = from_document(raised.status, to_document(raised))
    assert received is not None
    assert vars(received) == vars(raised)


def test_a_name_that_is_not_utf8_does_not_break_the_document() -> None:
    """Lone surrogates, as Python holds undecodable names, become readable in detail and members."""
    document = json.loads(to_document(problem("path-conflict", "caf\udce9 is taken", where="\ud800")))
    assert document["detail"] == "caf\\udce9 is taken"
    assert document["where"] == "\\ud800"


@given(st.sampled_from([400, 404, 500, 507]), st.binary(max_size=200))
def test_garbage_is_never_a_problem(status: int, body: bytes) -> None:
    """Arbitrary bytes are no problem, and raise nothing."""
    assert from_document(status, body) is None


def test_deep_nesting_is_no_problem() -> None:
    """A hundred thousand brackets from a hostile server raise nothing."""
    body = b'{"type": "https://chunkyd.dev/problems/internal", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert from_document(500, body) is None
