"""The token chunkyd shows the server. It is never part of the settings, so that nothing prints it with them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from chunkyd.errors import ConfigError
from chunkyd.settings.shapes import Remote


def read_token(remote: Remote, environ: Mapping[str, str]) -> str | None:
    """The token: from token_file, the unit's credential `token`, or CHUNKYD_TOKEN; None where none is given."""
    if remote.token_file is not None:
        return _token_in(remote.token_file)
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    credential = os.path.join(folder, "token")
    if folder and os.path.exists(credential):
        return _token_in(credential)
    given = environ.get("CHUNKYD_TOKEN", "")
    return _checked_token(given, "$CHUNKYD_TOKEN") if given else None


def _token_in(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = file.read(65536)
    except OSError as error:
        mend = "Let the user this runs as read it, and nobody else"
        raise ConfigError(f"{path}: the token cannot be read: {error.strerror}", mend=mend) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: this is not a token", mend="It holds the token alone, on one line") from error
    return _checked_token(content, path)


def _checked_token(content: str, place: str) -> str:
    """What can stand in a header; the error never shows it."""
    token = content.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        what = "there is no token in it" if not token else "this is not a token"
        raise ConfigError(f"{place}: {what}", mend="It holds the token alone, on one line")
    return token
