"""A program whose commands are loaded when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from chunkyd.cli.loading import loading


class Commands(click.Group):
    """`homes`: the name of each command, and `module:function` below `chunkyd.cli`."""

    def __init__(self, *, homes: dict[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        return sorted(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; None where there is none of this name, and then all are there, for click to find one like it."""
        for name in (cmd_name,) if cmd_name in self._homes else self._homes:
            self._load(name)
        return super().get_command(ctx, cmd_name)

    def _load(self, name: str) -> None:
        if name in self.commands:
            return
        module, _, function = self._homes[name].partition(":")
        with loading():
            self.add_command(getattr(import_module(f"chunkyd.cli.{module}"), function), name)
