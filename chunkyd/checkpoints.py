"""Named steps at which a program can be made to die, or to stand still, on purpose: so that a test may crash it there.

    CHUNKYD_CHECKPOINT=server.chunk.synced            killed (SIGKILL) at the first arrival
    CHUNKYD_CHECKPOINT=server.chunk.synced:3=stop     stopped (SIGSTOP) at the third; SIGCONT lets it go on
    CHUNKYD_CHECKPOINT=jobs.claimed,catalog.committed:2    several, each with its own count

Between two checkpoints at most one step changes what a crash leaves behind: each name says what has just been done, or
what comes next. Unarmed, `reached` is one look at a global that is None. A program arms itself when it starts, the
library never does. What is about to happen is told on stderr first: nobody is to be killed without a word.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping

from chunkyd.errors import ConfigError

VARIABLE = "CHUNKYD_CHECKPOINT"
_ARMING = r"(?P<name>[a-z.-]+)(?::(?P<arrival>[1-9][0-9]{0,8}))?(?:=(?P<action>kill|stop))?"
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_DONE = {"kill": "killed", "stop": "stopped"}

CHECKPOINTS: Mapping[str, str] = {
    # Small files that are replaced whole, and folders: both ends
    "files.folder.made": "a folder is made, its entry not yet synced",
    "files.folder.synced": "a folder is made and its entry synced",
    "files.atomic.synced": "the new content is synced under its temporary name",
    "files.atomic.renamed": "the new content has its name, which is not yet synced",
    "files.atomic.durable": "the new content has its name, durably",
    # The server's partial files
    "storage.lock.taken": "the data folder is this process's, and nothing else has happened",
    "storage.partial.making": "a session is about to get its partial",
    "storage.partial.made": "the partial is there, empty",
    "storage.partial.allocated": "its space is set aside, not yet synced",
    "storage.partial.durable": "the partial is durable, its session not recorded",
    "storage.partial.discarding": "a partial that nobody needs is about to be removed",
    "storage.partial.discarded": "it is removed",
    "storage.probe.written": "the readiness probe's file is there",
    # Publishing a file
    "storage.attributes.set": "time and mode are set, not yet synced",
    "storage.attributes.synced": "bytes, time and mode are synced",
    "storage.folder.made": "a folder on the way to the target is made",
    "storage.folder.synced": "a folder's entry is synced into the one above",
    "storage.old.kept": "the old version has its second name beside the target",
    "storage.way.kept": "a file in the way of a folder has left its name, kept beside it",
    "storage.way.cleared": "a file in the way of a folder is moved to the partials, to be removed at the end",
    "storage.way.emptied": "an empty folder at the target is removed",
    "storage.publish.renaming": "everything is ready for the rename",
    "storage.publish.renamed": "the target names the new file, not yet durably",
    "storage.publish.rejoined": "a partial that came back beside its published self is removed",
    "storage.publish.synced": "the target names the new file, durably",
    "storage.finish.synced": "a rename that a crash left unsynced is durable",
    "storage.replaced.freeing": "the file that stood in the way is about to be removed",
    "storage.replaced.freed": "it is removed",
    # The catalog's file
    "catalog.file.made": "an empty catalog is there, its entry not yet synced",
    "catalog.damaged.moving": "a part of a damaged catalog is moved aside",
    "catalog.damaged.moved": "the damaged catalog is moved aside, durably",
    "catalog.backup.synced": "the copy before a migration is synced under its temporary name",
    "catalog.backup.made": "the copy has its name, durably",
    "catalog.migration.committing": "the schema is made or brought up to date, not yet committed",
    "catalog.committing": "any change of the catalog, before its commit",
    "catalog.committed": "any change of the catalog, after its commit",
    "catalog.user.added": "a user is recorded, without a token yet",
    "catalog.user.removed": "a user and all tokens are removed",
    "catalog.token.added": "a token is recorded, and was not shown yet",
    "catalog.token.revoked": "a token is removed",
    # Sessions and chunks
    "server.session.recorded": "a session is recorded",
    "server.initiate.answering": "the answer to an initiate is about to be sent",
    "server.request.answered": "the answer to any request is sent",
    "server.chunk.writing": "bytes of a chunk are about to be written",
    "server.chunk.written": "bytes of a chunk are written, not yet synced",
    "server.chunk.syncing": "whole chunks are written and checked, about to be synced",
    "server.chunk.synced": "chunks are synced, not yet recorded",
    "server.chunk.recorded": "chunks are recorded as stored",
    "server.chunk.answering": "the answer to a chunk is about to be sent",
    "server.hash.recorded": "the hash of a session that began without one is recorded",
    "server.hash.answering": "the answer to its declaration is about to be sent",
    "server.status.answering": "the answer to a status request is about to be sent",
    "server.end.recorded": "a session's end is recorded",
    "server.end.answering": "the answer to an endUpload is about to be sent",
    "server.expiry.recorded": "a tombstone is recorded, the partial still there",
    "server.tombstone.removed": "a tombstone is removed",
    "server.foreign-end.seen": "a session that an administrator expired is let go, its partial still there",
    "server.session.forgotten": "a session whose partial is gone is forgotten at start",
    # From the last chunk to complete
    "server.verdict.right": "the bytes are those of the hash, which is recorded nowhere",
    "server.verdict.wrong": "the bytes are not those of the hash, which is recorded nowhere",
    "server.verdict.recorded": "the session is recorded as dead, its partial still there",
    "server.publish.prepared": "the partial is synced, and about to be recorded as publishing",
    "server.publish.recorded": "the session is recorded as publishing, with its inode",
    "server.publish.taken-back": "publishing met a folder in its place, and is taken back in the records",
    "server.overtaken.recorded": "a version that a later one has overtaken is recorded as about to be kept beside it",
    "server.overtaken.kept": "it is kept beside it, durably",
    "server.publish.overtaken": "a later version stands there: complete without a file, the partial still there",
    "server.publish.placed": "the file is published, and not yet recorded as complete",
    "server.complete.recorded": "the session is recorded as complete, with its file",
    "server.complete.caught-up": "a start has recorded what the last run had published",
    "server.renewal.recorded": "a session is recorded for a file that only gets a new time or mode",
    "server.renewal.set": "the published file has its new time and mode, not yet recorded",
    "server.copy.made": "a version that the user already has is copied, not yet synced",
    "server.copy.synced": "the copy is synced, not yet checked",
    "server.copy.abandoning": "the kept version is not what it was, and no longer recorded",
    "server.copy.abandoned": "the session waits for its bytes like any other",
    "server.rebuild.recorded": "a published file is recorded again in a catalog that was begun anew",
    "server.rebuild.done": "all of them are",
    # Many small files in one request
    "server.batch.writing": "small files are about to be written",
    "server.batch.prepared": "some files of a batch are written and synced, and recorded nowhere",
    "server.batch.recorded": "the files of a batch are recorded as publishing",
    "server.batch.placed": "the files of a batch are published, and not yet recorded as complete",
    "server.batch.completed": "the files of a batch are recorded as complete",
    "server.batch.answering": "the answer to a batch is about to be sent",
    # The daemon's job table
    "jobs.file.made": "an empty job table is there",
    "jobs.damaged.moving": "a part of a damaged job table is moved aside",
    "jobs.damaged.moved": "the damaged job table is moved aside, durably",
    "jobs.backup.written": "the copy before a migration is written under its temporary name",
    "jobs.backup.made": "the copy has its name, durably",
    "jobs.migration.committing": "one step of the schema is made, not yet committed",
    "jobs.migration.committed": "one step of the schema is made",
    "jobs.committing": "any change of the job table, before its commit",
    "jobs.committed": "any change of the job table, after its commit",
    "jobs.recovered": "the last run's claims are taken back",
    "jobs.offered": "settled changes are queued",
    "jobs.claimed": "a job is claimed",
    "jobs.hashed": "a hash is recorded",
    "jobs.session.remembered": "a session is remembered",
    "jobs.session.given-up": "a session is given up, and remembered as one to be ended",
    "jobs.session.ended": "the server has said that a session is gone",
    "jobs.resumed": "a session goes on",
    "jobs.progressed": "progress is written down",
    "jobs.arrival.recorded": "the server's complete is recorded",
    "jobs.done": "a job is done",
    "jobs.group.claimed": "small files are claimed together with a first one",
    "jobs.group.arriving": "the server has said complete of small files that went together, which is not yet recorded",
    "jobs.group.arrived": "it is recorded",
    "jobs.released": "a job goes back into the queue",
    "jobs.waiting": "a job waits for its next attempt",
    "jobs.paused": "a job is paused",
    "jobs.failed": "a job has failed",
    "jobs.restarted": "a job begins anew with a new session",
    "jobs.superseded": "a job gives way to a newer version",
    "jobs.source-gone.found": "a job's source was found gone by its worker",
    "jobs.source-gone.noticed": "a job's source was found gone by the watcher",
    "jobs.wish.recorded": "the user paused, resumed, retried or cancelled some jobs",
    "jobs.pause.recorded": "the user paused a folder, or everything",
    "jobs.resume.recorded": "the user resumed a folder, or everything",
    "jobs.destination.recorded": "another server is recorded as the one to send to, nothing of it sent there yet",
    "jobs.lifted": "the queue goes on after a hold",
    "jobs.root.back": "a folder's jobs go on: its root is back",
    # The daemon itself, and what is done after an upload
    "daemon.lock.taken": "the state folder is this process's, and nothing else has happened",
    "daemon.home.seen": "a root has a new identity, not yet written down",
    "daemon.ending.answered": "the server has ended a session that was left behind, not yet recorded",
    "daemon.after.hiding": "the source is what was sent, and about to get its hidden name",
    "daemon.after.hidden": "the source has its hidden name",
    "daemon.after.put-back": "the source has its name again, not yet durably",
    "daemon.after.done": "all that is to be done after an upload is done, and not recorded",
    "daemon.delete.deciding": "the hidden source is about to be deleted",
    "daemon.delete.deleted": "it is deleted, not yet durably",
    "daemon.delete.synced": "it is deleted, durably",
    "daemon.move.deciding": "the hidden source is about to be moved",
    "daemon.move.moved": "it is moved, not yet durably",
    "daemon.move.named": "its new name is durable",
    "daemon.move.synced": "its old name is gone durably",
    "daemon.copy.written": "it is copied to another file system, not yet synced",
    "daemon.copy.synced": "the copy is synced, and has no name yet",
    "daemon.copy.named": "the copy has its name, not yet durably",
    "daemon.copy.durable": "the copy has its name, durably, and the source is still there",
    "daemon.copy.removed": "the source is removed",
    # The client library
    "upload.hash.taken": "the file is hashed",
    "upload.hash.kept": "how far the hash is was remembered",
    "upload.hash.followed": "the file is hashed while it is sent, which is remembered, and not yet declared",
    "upload.hash.declared": "the server has said that the hash is recorded",
    "upload.version.unsteady": "a file did not hold still while it was sent: remembered, its session not yet given up",
    "upload.session.opening": "a session is about to be asked for",
    "upload.session.opened": "the server has opened a session, not yet remembered",
    "upload.session.remembered": "the session is remembered",
    "upload.session.lost": "the server no longer knows the session, which is given up",
    "upload.version.superseded": "the session of an older version is given up, not yet ended",
    "upload.chunk.sending": "a chunk is about to be sent",
    "upload.chunk.stored": "the server has said that a chunk is stored",
    "upload.complete.heard": "the server has said complete, which is not yet recorded",
    "upload.complete.recorded": "complete is recorded, the session not yet ended",
    "upload.end.answered": "the server has ended the session, not yet recorded",
    "upload.end.recorded": "the session's end is recorded",
    "upload.memory.opened": "the library's own memory is open, perhaps without its tables",
    "upload.memory.committing": "any change of that memory, before its commit",
    "upload.memory.committed": "any change of that memory, after its commit",
}


class _Armed:
    """What this process was told to do, and how often it came by."""

    def __init__(self, arming: str) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, tuple[int, str]] = {}
        for each in arming.split(","):
            name, arrival, action = _parsed(each.strip())
            self._left[name] = (arrival, action)

    def arrive(self, name: str) -> None:
        """Count, and act where it is time; an action happens once."""
        with self._lock:
            left, action = self._left.get(name, (0, ""))
            if not left:
                return
            self._left[name] = (left - 1, action)
        if left == 1:
            _say(f"checkpoint {name}: {_DONE[action]}\n")
            signal.pthread_kill(threading.get_ident(), _ACTIONS[action])  # this very thread: not one step more


_armed: _Armed | None = None


def reached(name: str) -> None:
    """The program stands at this checkpoint."""
    if _armed is not None:
        _armed.arrive(name)


def arm(environ: Mapping[str, str]) -> None:
    """Do what the environment says, if it says anything; ConfigError where it cannot be meant."""
    global _armed
    arming = environ.get(VARIABLE)
    _armed = _Armed(arming) if arming else None


def _parsed(each: str) -> tuple[str, int, str]:
    found = re.fullmatch(_ARMING, each, re.ASCII)
    if found is None:
        what = f"{VARIABLE}: {each!r} is no checkpoint"
        raise ConfigError(what, mend="Write it as name, name:3 or name:3=stop; several with commas between them")
    name = found["name"]
    if name not in CHECKPOINTS:
        import difflib  # for mistakes alone

        near = difflib.get_close_matches(name, CHECKPOINTS, 1)
        mend = f"Did you mean {near[0]}?" if near else "chunkyd/checkpoints.py lists all there are"
        raise ConfigError(f"{VARIABLE}: there is no checkpoint {name}", mend=mend)
    return name, int(found["arrival"] or 1), found["action"] or "kill"


def _say(text: str) -> None:
    os.write(2, text.encode())  # past every buffer: nothing of this process lives on to flush one
