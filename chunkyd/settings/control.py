"""Where the daemon is spoken to: the section `control`, also read alone, by those who only want to speak to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from chunkyd.settings.document import overlay, read_document
from chunkyd.settings.places import DAEMON, default_socket, path_reader
from chunkyd.settings.reader import Entry, keys_of, or_word, text
from chunkyd.settings.values import Value

_LONGEST_SOCKET_PATH = 107


class Control(msgspec.Struct, frozen=True):
    """The control socket; with a group its members may use it too."""

    socket: str
    group: str | None = None


def load_control(path: str, environ: Mapping[str, str]) -> Control:
    """Where the daemon is spoken to, and no more: what else is wrong in the file keeps nobody from asking it."""
    document = overlay(read_document(path), DAEMON.prefix, DAEMON.reserved, environ)
    written = Entry("", document).named().get("control", Entry("control", Value(path, None)))
    return read_control(written, path_reader(path, environ), environ)


def read_control(entry: Entry, read_path: Callable[[Entry], str], environ: Mapping[str, str]) -> Control:
    """The section `control`."""
    section = entry.section(keys_of(Control))
    control = Control(
        socket=section.optional("socket", read_path, default_socket(environ)),
        group=section.optional("group", or_word("none", text), None),
    )
    if len(os.fsencode(control.socket)) > _LONGEST_SOCKET_PATH:
        what = f"{control.socket}: a socket's path may have {_LONGEST_SOCKET_PATH} bytes"
        raise section.entry("socket").error(what, "Name a shorter one")
    return control
