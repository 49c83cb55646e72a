"""The vectors, as the tests read them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"


def vectors(name: str) -> dict[str, Any]:
    """One file of vectors."""
    loaded: dict[str, Any] = json.loads((FOLDER / name).read_text("ascii"))
    return loaded


def body_of(case: dict[str, Any]) -> bytes:
    """The bytes of a case's body."""
    return base64.b64decode(case["bodyBytes"]) if "bodyBytes" in case else case["body"].encode("utf-8")


def label(case: Any) -> str:
    """A short name for a case, in the test's ID."""
    text = case if isinstance(case, str) else str(case.get("name") or case.get("why") or next(iter(case.values())))
    return ascii(text)[1:41]
