"""The late-hash extension: a session begins with a name for the file's version, and its hash is declared later.

    initiate          `fileVersion` in place of `fileHash`
    all requests      the name, in `Chunky-File-Hash`, before and after the declaration
    declaration       JSON with `fileHash`, once the last byte was read

The name means nothing to the server but that it is the session's. It can never be taken for a hash, nor a hash for it.
"""

from __future__ import annotations

import base64
import hashlib
import re

import msgspec

from chunkyd.protocol.documents import decode

EXTENSION = "late-hash"  # its name in the answer to OPTIONS
PATH_DECLARE = "/declareFileHash"
MIN_VERSION_CHARACTERS, MAX_VERSION_CHARACTERS = 19, 67

_PREFIX = "v1."
_FILE_VERSION = re.compile(r"v1\.[A-Za-z0-9_-]{16,64}", re.ASCII)


class Declaration(msgspec.Struct, frozen=True, rename="camel"):
    """The hash of the whole file, at last."""

    file_hash: str


def is_file_version(text: str) -> bool:
    """Whether this names a version without its hash: `v1.` and 16 to 64 characters of base64url."""
    return _FILE_VERSION.fullmatch(text) is not None


def file_version(what: str) -> str:
    """A name for what these words tell apart; the same for the same words."""
    digest = hashlib.sha256(what.encode("utf-8", "surrogatepass")).digest()
    return _PREFIX + base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def encode_declaration(declaration: Declaration) -> bytes:
    """The JSON body of a declaration."""
    return msgspec.json.encode(declaration)


def decode_declaration(body: bytes) -> Declaration:
    """A declaration from its JSON body.

    Raises ValueError with the reason (`malformed-request`); what is no hash has a problem of its own, as in an
    initiate: ask `is_file_hash`.
    """
    return decode(body, Declaration)
