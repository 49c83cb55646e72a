"""`chunky-server verify`: read all published files again; beside a running server or without one."""

from __future__ import annotations

import click

from chunkyd.cli.common import json_option, print_json
from chunkyd.cli.server_common import Options, load, pass_options, path_members
from chunkyd.errors import EXIT_DONE, EXIT_FAILED
from chunkyd.protocol.paths import readable


@click.command("verify")
@click.option("--user", "user", default=None, help="Of this user only.")
@click.option("--forget-missing", is_flag=True, help="Take what is missing off the record, and off the allowance.")
@json_option
@pass_options
def verify(options: Options, user: str | None, forget_missing: bool, as_json: bool) -> int:
    """Hash what is stored; report damaged, missing, unreadable and unknown files. Exit 1 but for unknown ones."""
    from chunkyd.server.audit import audit
    from chunkyd.server.stores import open_catalog, open_published

    data_dir = load(options).data_dir
    good = 0
    findings: list[dict[str, str]] = []
    with open_catalog(data_dir) as catalog, open_published(data_dir) as files:
        for found in audit(files, catalog, user):
            if found.verdict == "good":
                good += 1
                continue
            if forget_missing and found.verdict == "missing" and found.record is not None:
                catalog.remove_file(found.target, found.record.sequence)
            findings.append({"verdict": found.verdict, "user": found.target.user, **path_members(found.target.path)})
            if not as_json:
                click.echo(f"{found.verdict}\t{found.target.user}\t{readable(found.target.path)!r}")
    if as_json:
        print_json({"good": good, "findings": findings})
    else:
        click.echo(f"{good} good, {len(findings)} to look at")
    return EXIT_FAILED if any(row["verdict"] != "unknown" for row in findings) else EXIT_DONE
