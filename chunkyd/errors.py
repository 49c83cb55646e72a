"""The one exception hierarchy.

    ChunkyError                     what happened, what to do next; exit code and retryable are class attributes
    ├── UserError                   the user's: retrying without a change does not help
    │   ├── UsageError              wrong use of a command (2)
    │   ├── ConfigError             bad configuration, with file and line (78)
    │   └── SourceError             the file to be sent
    │       ├── SourceGone          it is no longer there
    │       ├── SourceChanged       it is not the version it was: a newer one is to be sent
    │       └── SourceUnreadable    permission, I/O error, not a regular file
    ├── PeerError                   the other end's
    │   ├── Problem                 a problem of the protocol's table, raised by the server, received by the client
    │   └── NotChunky               the answer is not a chunky server's: a wrong URL
    └── EnvironmentFailure          the machine's or the network's: the same again may work later
        ├── NetworkError            no answer, a cut answer, or one this protocol does not promise
        ├── Unreachable             the attempts are used up; resumable (69)
        ├── Interrupted             stopped on request; resumable (3)
        ├── StorageFull             no room on a disk of this machine
        ├── StateError              the state folder or database cannot be used
        └── AlreadyRunning          another process owns the state folder, data folder or port

Foreign exceptions are translated once, at the door of their library. Nobody below `cli` prints.
"""

from __future__ import annotations

from collections.abc import Mapping

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 3
EXIT_UNREACHABLE = 69
EXIT_CONFIG = 78


class ChunkyError(Exception):
    """Something the user is told about: `what` happened and, where one helps, what to do `next`."""

    exit_code = EXIT_FAILED
    retryable = False

    def __init__(self, what: str, *, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}. {self.mend}" if self.mend else self.what


class UserError(ChunkyError):
    """The user's: the same again fails again until something is changed."""


class UsageError(UserError):
    """A command was used in a way it does not understand."""

    exit_code = EXIT_USAGE


class ConfigError(UserError):
    """A configuration that cannot be used. `what` begins with file and line where they are known."""

    exit_code = EXIT_CONFIG


class SourceError(UserError):
    """The file that is to be sent."""


class SourceGone(SourceError):
    """The source is no longer at its path."""


class SourceChanged(SourceError):
    """The source is not the version this upload began with; the newer version is an upload of its own."""

    retryable = True


class SourceUnreadable(SourceError):
    """The source cannot be read: permission, an I/O error, or not a regular file."""


class PeerError(ChunkyError):
    """The other end's."""


class Problem(PeerError):
    """A problem of the protocol's table (`protocol.problems`); the server raises it, the client receives it.

    `members` are the extra members of the document, named as on the wire. `retry_after` is in seconds.
    Built by `protocol.problems.problem()`, which takes status, title, action and retryable from the table.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        status: int,
        title: str,
        action: str,
        retryable: bool,
        retry_after: float | None = None,
        members: Mapping[str, int | str] | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.name = name
        self.detail = detail
        self.status = status
        self.title = title
        self.action = action
        self.retryable = retryable
        self.retry_after = retry_after
        self.members: Mapping[str, int | str] = members or {}


class NotChunky(PeerError):
    """The answer is not a chunky server's (a bare 401, 403, 404, 405, a redirect): pause, name the URL."""


class EnvironmentFailure(ChunkyError):
    """The machine's or the network's: the same again may work later."""

    retryable = True


class NetworkError(EnvironmentFailure):
    """No answer, a cut answer, or an answer the protocol does not promise. `retry_after` is in seconds."""

    exit_code = EXIT_UNREACHABLE

    def __init__(self, what: str, *, mend: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, mend=mend)
        self.retry_after = retry_after


class Unreachable(EnvironmentFailure):
    """The attempts are used up; what was stored stays stored, and the same upload resumes."""

    exit_code = EXIT_UNREACHABLE


class Interrupted(EnvironmentFailure):
    """Stopped on request; what was stored stays stored, and the same upload resumes."""

    exit_code = EXIT_INTERRUPTED


class StorageFull(EnvironmentFailure):
    """No room on a disk of this machine (ENOSPC, EDQUOT). Nothing was recorded."""


class StateError(EnvironmentFailure):
    """The state folder or a database in it cannot be used."""

    retryable = False


class AlreadyRunning(EnvironmentFailure):
    """Another process owns the state folder, the data folder or the port; says who."""

    retryable = False
