"""Records in a SQL database: SQLite now.

The statements in `sql_*` keep to what SQLite and PostgreSQL share; tables and indexes are in `schema`, connections,
transactions and the meaning of errors in `database`, making, checking and migrating in `opening`.
"""

from __future__ import annotations

from chunkyd.catalog.database import CatalogDatabase
from chunkyd.catalog.opening import is_damaged, make_file, migrate, move_aside
from chunkyd.catalog.sql_files import SqlFiles
from chunkyd.catalog.sql_sessions import SqlSessions
from chunkyd.catalog.sql_users import SqlUsers


class SqlCatalog(SqlSessions, SqlFiles, SqlUsers):
    """The catalog contract over one SQLite file.

    `owner`: this process owns the data folder (the storage's lock), so it may check the whole file and move a damaged
    one aside; `lost` is then the name it has now, and `knows_files` says False, as in every new catalog. Others meet
    a damaged catalog as StateError. A newer schema is a StateError for both.
    """

    def __init__(self, path: str, *, owner: bool = False) -> None:
        make_file(path)
        self.lost = move_aside(path) if owner and is_damaged(path) else None
        if self.lost is not None:
            make_file(path)
        database = CatalogDatabase(path)
        super().__init__(database)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        if owner:
            database.spare.keep()

    def probe(self) -> None:
        """See the contract: a row is changed, durably."""
        with self._database.writing():
            self._database.change("UPDATE probe SET count = count + 1")

    def close(self) -> None:
        """See the contract."""
        self._database.close()
