"""The tables, as SQLite has them: the one place, with `database`, that another SQL dialect would have of its own.

A number that may not fit 63 bits (inodes, devices, nanoseconds of far years) is text. A migration is a tuple of
statements run in one transaction; the first makes the tables, and `user_version` counts how many have run.
"""

from __future__ import annotations

ACTIVE = "state IN ('receiving', 'copying', 'publishing')"  # base.ACTIVE_STATES; a partial index answers only to this

SESSIONS = (
    """CREATE TABLE session (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL UNIQUE,
        user TEXT NOT NULL,
        file_hash TEXT NOT NULL,
        total_bytes INTEGER NOT NULL,
        target BLOB NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        expires_at REAL NOT NULL,
        modified_ns TEXT,
        mode INTEGER,
        reserved INTEGER NOT NULL,
        idempotency BLOB,
        inode TEXT,
        copy_of BLOB
    )""",  # AUTOINCREMENT: a sequence is never given twice, not even after its session was deleted
    "CREATE UNIQUE INDEX session_idempotency ON session (idempotency) WHERE idempotency IS NOT NULL",
    "CREATE INDEX session_user ON session (user, sequence)",
    "CREATE INDEX session_due ON session (expires_at, sequence)",
    f"CREATE INDEX session_active ON session (user, total_bytes, state) WHERE {ACTIVE}",
    """CREATE TABLE stored (
        sequence INTEGER NOT NULL,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        PRIMARY KEY (sequence, start)
    ) WITHOUT ROWID""",  # the ranges of a session are ascending, disjoint, and do not touch
)
FILES = (
    """CREATE TABLE file (
        user TEXT NOT NULL,
        path BLOB NOT NULL,
        file_hash TEXT NOT NULL,
        size INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        published_at REAL NOT NULL,
        PRIMARY KEY (user, path)
    ) WITHOUT ROWID""",
    "CREATE INDEX file_version ON file (user, file_hash, size, sequence)",
    "CREATE TABLE usage (user TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID",  # sums of file.size
)
USERS = (
    "CREATE TABLE user (name TEXT PRIMARY KEY, created REAL NOT NULL) WITHOUT ROWID",
    """CREATE TABLE token (
        token_id TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        created REAL NOT NULL,
        note TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX token_user ON token (user, created, token_id)",
)
PROBE = ("CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)", "INSERT INTO probe VALUES (1, 0)")

# A row for each kind of record that is still to be made anew from the published files; a new catalog knows none.
REBUILD = ("CREATE TABLE rebuild (records TEXT PRIMARY KEY)", "INSERT INTO rebuild VALUES ('file')")

# What comes late is known by them: the greatest order that a client has wished a path with, and (without an order) the
# keys of initiates and batches that are over.
WISHES = (
    "CREATE TABLE wish (subject BLOB PRIMARY KEY, number INTEGER, expires_at REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX wish_due ON wish (expires_at)",
)

# What stands for the hash of a session that began without one; its `file_hash` is '' until it is declared.
VERSIONS = ("ALTER TABLE session ADD COLUMN file_version TEXT",)

MIGRATIONS: tuple[tuple[str, ...], ...] = ((*SESSIONS, *FILES, *USERS, *PROBE), REBUILD, WISHES, VERSIONS)
