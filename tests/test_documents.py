"""What the documents say is true: links lead somewhere, and the README's example runs as printed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import Server, running

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors a renderer gives to a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that it has."""
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {path}#{anchor}"


def test_the_readmes_example_runs_as_printed(tmp_path: Path) -> None:
    """Only the server's port and the file are made for it; the file arrives with the hash it prints."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    server = Server(tmp_path)
    (tmp_path / "footage.mov").write_bytes(os.urandom(300_000))
    with running(server):
        done = subprocess.run(
            [sys.executable, "-c", examples[0].replace("http://127.0.0.1:8420", server.url)],
            cwd=tmp_path,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    file_hash = hashlib.sha256((tmp_path / "footage.mov").read_bytes()).hexdigest()
    assert f"arrived: {file_hash}" in done.stdout
    assert hashlib.sha256((server.files() / "footage.mov").read_bytes()).hexdigest() == file_hash


FAILURES = (ROOT / "docs" / "failure-model.md").read_text()
FAMILIES = re.findall(r"^## (.+)\n\n\| fault \|.*\n\|[-|]+\n((?:\|.*\n)*)", FAILURES + "\n", re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shown_by(reference: str) -> bool:
    """Whether a `make target`, or a `file.py::function` (or `file.py::Class::method`) below tests/, is there."""
    if reference.startswith("make "):
        return reference.removeprefix("make ").split()[0] in TARGETS
    path, *classes, function = reference.split("::")
    file = ROOT / "tests" / path
    text = file.read_text() if file.is_file() else ""
    begins = [*(f"class {name}:" for name in classes), f"{'    ' * len(classes)}def {function}("]
    return all(f"\n{begin}" in text for begin in begins)


@pytest.mark.parametrize(("family", "rows"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_every_failure_names_what_shows_it(family: str, rows: str) -> None:
    """Each row of the failure model has its four columns, and the last names tests or make targets that exist."""
    assert rows
    for row in rows.splitlines():
        columns = re.split(r"(?<!\\)\|", row.strip().strip("|"))
        assert len(columns) == 4 and all(column.strip() for column in columns), row
        references = re.findall(r"`([^`]+)`", columns[3])
        assert references, row
        assert [reference for reference in references if not shown_by(reference)] == [], row
