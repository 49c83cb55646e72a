"""JSON as it travels: UTF-8, read strictly where a member is known, and nothing but ValueError for what is not it.

Unknown members are ignored; of a repeated member the last counts; numbers are integers only where they are
written as integers. Reading costs time in proportion to the length.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

Document = TypeVar("Document")


def decode(body: bytes, kind: type[Document]) -> Document:
    """The document in a body; ValueError with the reason where it is none of this kind."""
    try:
        body.decode("utf-8")  # msgspec skips unknown members without a look at their bytes
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`", "'")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError("the body is not JSON in UTF-8") from error
    except RecursionError as error:
        raise ValueError("the body is JSON nested too deeply") from error


def encode(document: object) -> bytes:
    """JSON that can always be written: text in it that cannot travel, a folder's name for one, is made `encodable`."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(msgspec.to_builtins(document)))


def _encodable(value: object) -> object:
    match value:
        case str():
            return encodable(value)
        case dict():
            return {_encodable(name): _encodable(member) for name, member in value.items()}
        case list() | tuple():
            return [_encodable(each) for each in value]
    return value


def encodable(text: str) -> str:
    """The text as it can travel: a lone surrogate, as names that are not UTF-8 hold it, becomes readable instead."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
