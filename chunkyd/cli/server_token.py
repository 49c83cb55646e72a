"""`chunky-server token`: what clients show to be let in. Only hashes are kept."""

from __future__ import annotations

import time

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.server_common import Options, load, moment, pass_options
from chunkyd.errors import UsageError


@click.group("token")
def token() -> None:
    """Tokens of users."""


@token.command("add")
@click.option("--user", "user", required=True, help="Whose token it is.")
@click.option("--note", default="", help="What it is for.")
@pass_options
def add(options: Options, user: str, note: str) -> None:
    """Make one more token; the last line printed is the token, shown this once."""
    from chunkyd.server.auth import new_token
    from chunkyd.server.stores import open_catalog

    secret, record = new_token(user, time.time(), note)
    with open_catalog(load(options).data_dir) as catalog:
        try:
            catalog.add_token(record)
        except LookupError as error:
            raise UsageError(f"there is no user {user}", mend=f"`chunky-server user add {user}` makes one") from error
    click.echo(f"This token ({record.token_id}) is kept nowhere else; give it to the client:", err=True)
    click.echo(secret)


@token.command("list")
@click.option("--user", "user", default=None, help="Of this user only.")
@json_option
@pass_options
def list_tokens(options: Options, user: str | None, as_json: bool) -> None:
    """Tokens by their IDs; the tokens themselves are not kept."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        tokens = catalog.tokens(user)
    if as_json:
        rows = [{"id": t.token_id, "user": t.user, "created": moment(t.created), "note": t.note} for t in tokens]
        print_json({"tokens": rows})
        return
    for found in tokens:
        click.echo(f"{found.token_id}\t{found.user}\t{moment(found.created)}\t{found.note}")


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@pass_options
def revoke(options: Options, token_id: str) -> None:
    """Make a token worthless, within a second on a running server."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        if not catalog.revoke_token(token_id):
            raise UsageError(f"there is no token {token_id}", mend="`chunky-server token list` shows their IDs")
    click.echo(f"Revoked {token_id}.")
