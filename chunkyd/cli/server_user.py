"""`chunky-server user`: who may send files here."""

from __future__ import annotations

import time

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.server_common import Options, load, pass_options
from chunkyd.errors import UsageError


@click.group("user")
def user() -> None:
    """Users of this server."""


@user.command("add")
@click.argument("name")
@pass_options
def add(options: Options, name: str) -> None:
    """Add a user; the last line printed is the user's first token, shown this once."""
    from chunkyd.server.auth import check_user_name, new_token
    from chunkyd.server.stores import open_catalog

    check_user_name(name)
    with open_catalog(load(options).data_dir, create=True) as catalog:
        if not catalog.add_user(name, time.time()):
            what = f"there is a user {name} already"
            raise UsageError(what, mend=f"`chunky-server token add --user {name}` gives another token")
        secret, record = new_token(name, time.time())
        catalog.add_token(record)
    click.echo(f"Added {name}. This token ({record.token_id}) is kept nowhere else; give it to the client:", err=True)
    click.echo(secret)


@user.command("list")
@json_option
@pass_options
def list_users(options: Options, as_json: bool) -> None:
    """Users, with the number of their tokens and the bytes they own."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        rows = [
            {"name": name, "tokens": len(catalog.tokens(name)), "bytes": catalog.usage(name)}
            for name in catalog.users()
        ]
    if as_json:
        print_json({"users": rows})
        return
    for row in rows:
        click.echo(f"{row['name']}\t{row['tokens']} tokens\t{row['bytes']} bytes")


@user.command("remove")
@click.argument("name")
@pass_options
def remove(options: Options, name: str) -> None:
    """Remove a user and all tokens; the files stay."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        if not catalog.remove_user(name):
            raise UsageError(f"there is no user {name}", mend="`chunky-server user list` shows who is there")
    click.echo(f"Removed {name}. The files stay where they are.")
