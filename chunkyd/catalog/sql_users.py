"""Users and tokens in SQL."""

from __future__ import annotations

from chunkyd.catalog.base import TokenRecord
from chunkyd.catalog.database import CatalogDatabase, Taken
from chunkyd.checkpoints import reached

_SELECT = "SELECT token_id, user, digest, created, note FROM token"


class SqlUsers:
    """See `UserCatalog`."""

    def __init__(self, database: CatalogDatabase) -> None:
        self._database = database

    def add_user(self, name: str, created: float) -> bool:
        """See the contract."""
        with self._database.writing():
            statement = "INSERT INTO user (name, created) VALUES (?, ?) ON CONFLICT DO NOTHING"
            added = self._database.change(statement, name, created) == 1
        reached("catalog.user.added")
        return added

    def remove_user(self, name: str) -> bool:
        """See the contract."""
        with self._database.writing():
            self._database.change("DELETE FROM token WHERE user = ?", name)
            removed = self._database.change("DELETE FROM user WHERE name = ?", name) == 1
        reached("catalog.user.removed")
        return removed

    def users(self) -> list[str]:
        """See the contract."""
        return [row[0] for row in self._database.rows("SELECT name FROM user ORDER BY name")]

    def add_token(self, token: TokenRecord) -> None:
        """See the contract."""
        with self._database.writing():
            if self._database.row("SELECT 1 FROM user WHERE name = ?", token.user) is None:
                raise LookupError(token.user)
            try:
                self._database.change(
                    "INSERT INTO token (token_id, user, digest, created, note) VALUES (?, ?, ?, ?, ?)",
                    token.token_id,
                    token.user,
                    token.digest,
                    token.created,
                    token.note,
                )
            except Taken as error:
                raise ValueError("this token is taken") from error
        reached("catalog.token.added")

    def revoke_token(self, token_id: str) -> bool:
        """See the contract."""
        with self._database.writing():
            revoked = self._database.change("DELETE FROM token WHERE token_id = ?", token_id) == 1
        reached("catalog.token.revoked")
        return revoked

    def tokens(self, user: str | None = None) -> list[TokenRecord]:
        """See the contract."""
        whose, parameters = ("", ()) if user is None else (" WHERE user = ?", (user,))
        rows = self._database.rows(f"{_SELECT}{whose} ORDER BY created, token_id", *parameters)
        return [TokenRecord(*row) for row in rows]

    def token_user(self, digest: bytes) -> str | None:
        """See the contract."""
        row = self._database.row("SELECT user FROM token WHERE digest = ?", digest)
        return str(row[0]) if row is not None else None
