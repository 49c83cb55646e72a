"""`chunky-server sessions`: uploads under way, beside a running server or without one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.server_common import Options, load, moment, pass_options, path_members
from chunkyd.errors import EnvironmentFailure, UsageError

if TYPE_CHECKING:
    from chunkyd.catalog.base import Catalog, SessionRecord


@click.group("sessions")
def sessions() -> None:
    """Uploads under way."""


def _row(catalog: Catalog, record: SessionRecord) -> dict[str, object]:
    stored = sum(stop - start for start, stop in catalog.stored(record.session_id))
    whole = record.state in ("complete", "publishing")
    return {
        "id": record.session_id,
        "user": record.user,
        **path_members(record.target),
        "state": str(record.state),
        "bytesDone": record.total_bytes if whole else stored,
        "bytesTotal": record.total_bytes,
        "fileHash": record.file_hash or None,
        "fileVersion": record.file_version,
        "created": moment(record.created),
        "expiresAt": moment(record.expires_at),
    }


@sessions.command("list")
@click.option("--user", "user", default=None, help="Of this user only.")
@json_option
@pass_options
def list_sessions(options: Options, user: str | None, as_json: bool) -> None:
    """Sessions, oldest first."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        rows = [_row(catalog, record) for record in catalog.sessions(user=user)]
    if as_json:
        print_json({"sessions": rows})
        return
    for row in rows:
        done = f"{row['bytesDone']}/{row['bytesTotal']}"
        click.echo(f"{row['id']}\t{row['state']}\t{done}\t{row['user']}\t{row['path']!r}")


@sessions.command("show")
@click.argument("session_id", metavar="ID")
@json_option
@pass_options
def show(options: Options, session_id: str, as_json: bool) -> None:
    """Everything about one session."""
    from chunkyd.server.stores import open_catalog

    with open_catalog(load(options).data_dir) as catalog:
        row = _row(catalog, _find(catalog, session_id))
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        click.echo(f"{key}: {value!r}" if key == "path" else f"{key}: {value}")


@sessions.command("expire")
@click.argument("session_id", metavar="ID")
@pass_options
def expire(options: Options, session_id: str) -> None:
    """End a session now; its client begins anew. A running server lets go of it within seconds."""
    from chunkyd.server.stores import open_catalog

    settings = load(options)
    with open_catalog(settings.data_dir) as catalog:
        record = _find(catalog, session_id)
        if not catalog.expire(record.session_id, time.time() + settings.limits.session_ttl):
            what = f"session {record.session_id} is being published, and ends by that"
            raise EnvironmentFailure(what, mend="Where it still is in a minute, the server's log says why")
    click.echo(f"Expired {record.session_id}.")


def _find(catalog: Catalog, session_id: str) -> SessionRecord:
    """By its ID, or by the beginning of it, as the log shows it."""
    found = [record for record in catalog.sessions(tombstones=True) if record.session_id.startswith(session_id)]
    if len(found) != 1:
        how_many = "no session" if not found else f"{len(found)} sessions"
        raise UsageError(f"{how_many} of the ID {session_id}", mend="`chunky-server sessions list` shows them")
    return found[0]
