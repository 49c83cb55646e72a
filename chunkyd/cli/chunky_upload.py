"""What `chunky upload` does: find the server and the files, send them, say what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import msgspec

from chunkyd.cli.chunky_display import Display, display_for
from chunkyd.cli.common import say
from chunkyd.cli.interrupts import ignore_interrupts, take_interrupts
from chunkyd.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, Interrupted, UsageError
from chunkyd.log import configure
from chunkyd.settings import Log, Remote, find_config, load_daemon, read_token
from chunkyd.upload import Client, Limiter, SqliteMemory, Uploader, install_lease_handler
from chunkyd.upload.many import Delivery, Outcome
from chunkyd.upload.together import Together
from chunkyd.upload.tree import Found, Skipped, gather

_STOP_SECONDS = 10.0  # uploads stop within a second, unless the file's disk or network mount hangs


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The command line."""

    files: tuple[bytes, ...]
    to: str | None
    recursive: bool
    name: bytes | None
    token_file: str | None
    state: str | None
    limit: int | None
    parallel: int
    chunk_size: int | None
    verify_always: bool
    as_json: bool
    config: str | None
    verbose: bool


def upload_files(wanted: Wanted, environ: Mapping[str, str]) -> int:
    """Send them; the exit code."""
    configure(Log(level="debug" if wanted.verbose else "warning", format="text"), "chunky")
    install_lease_handler()
    take_interrupts()
    remote, prefix = find_server(wanted, environ)
    gathered = gather(wanted.files, recursive=wanted.recursive, name=wanted.name, prefix=prefix)
    display = display_for(wanted, gathered)
    found = [each for each in gathered if isinstance(each, Found)]
    for each in gathered:
        if isinstance(each, Skipped):
            display.skipped(each)
    token = read_token(remote, environ)
    client = Client(remote.url, token=token, ca_file=remote.ca_file, proxy=remote.proxy, allow_plain=remote.allow_plain)
    with display:
        interrupted = _send(found, wanted, client, display)
    ignore_interrupts()
    code = _exit_code(display, interrupted)
    display.summary(code)
    return code


def find_server(wanted: Wanted, environ: Mapping[str, str]) -> tuple[Remote, bytes]:
    """The server, and the folder to publish in.

    What the configuration says of its server (token, proxy, CA file) counts for that server only: a token must not go
    to whichever URL is typed.
    """
    configured = _configured(wanted, environ)
    url = configured.url.rstrip("/") if configured is not None else ""
    if configured is not None and wanted.to is None:
        remote, prefix = configured, b""
    elif configured is not None and wanted.to is not None and f"{wanted.to}/".startswith(f"{url}/"):
        remote, prefix = configured, _folder(wanted.to[len(url) :])
    else:
        origin, prefix = split_prefix(wanted.to or "")
        remote = Remote(url=origin)
    if wanted.token_file is not None:
        remote = msgspec.structs.replace(remote, token_file=wanted.token_file)
    elif environ.get("CHUNKYD_TOKEN"):  # nearer to the user than the configuration
        remote = msgspec.structs.replace(remote, token_file=None)
    return remote, prefix


def _configured(wanted: Wanted, environ: Mapping[str, str]) -> Remote | None:
    """The configured server; None where --to needs no configuration and none that is sound is there."""
    try:
        return load_daemon(find_config("daemon", wanted.config, environ), environ).server
    except ConfigError:
        if wanted.to is None or wanted.config is not None:
            raise
        return None


def split_prefix(url: str) -> tuple[str, bytes]:
    """A URL as the server's and the folder to publish in, which is the URL's path."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError("--to is not a URL") from error
    if parts.query or parts.fragment:
        raise UsageError("--to has a query or a fragment", mend="Write ? as %3F and # as %23 in a folder's name.")
    return urlunsplit((parts.scheme, parts.netloc, "", "", "")), _folder(parts.path)


def _folder(path: str) -> bytes:
    return unquote_to_bytes(path).strip(b"/")


def _send(found: list[Found], wanted: Wanted, client: Client, display: Display) -> bool:
    """Whether it was interrupted."""
    memory = SqliteMemory(wanted.state)
    limiter = Limiter(wanted.limit) if wanted.limit is not None else None
    verify: Literal["changed", "always"] = "always" if wanted.verify_always else "changed"

    def make(file: Found, progress: object) -> Uploader:
        return Uploader(
            client.url,
            file.source,
            name=file.path,
            memory=memory,
            parallel_chunks=wanted.parallel,
            chunk_size=wanted.chunk_size,
            verify=verify,
            limiter=limiter,
            progress=progress,  # type: ignore[arg-type]
            client=client,
        )

    begun = memory.begun(client.url)
    delivery = Delivery(
        found,
        make,
        display.progress,
        display.finished,
        Together(client, limiter),
        lambda file: (file.source, file.path) in begun,
        memory.origin,
    )
    try:
        delivery.run()
    except KeyboardInterrupt:
        ignore_interrupts()
        delivery.stop()
        say("stopping …")
        delivery.wait(_STOP_SECONDS)
        return True
    finally:
        for file in delivery.rest():
            display.finished(Outcome(file, error=Interrupted("not begun")))
        memory.close()
        client.close()
    return False


def _exit_code(display: Display, interrupted: bool) -> int:
    if interrupted:
        return EXIT_INTERRUPTED
    codes = [outcome.error.exit_code for outcome in display.outcomes if outcome.error is not None]
    for code in codes:
        if code not in (EXIT_FAILED, EXIT_INTERRUPTED):
            return code
    return EXIT_FAILED if codes or display.failures else EXIT_DONE
