"""The books' tables, and transactions on them: SQLite by default, PostgreSQL by URL.

Money moves only inside `write()`: SQLite takes its write lock at the start (BEGIN IMMEDIATE), PostgreSQL locks the
account's row (`locked_account`), so that two writers of an account are always one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, MetaData, String, Table, Text
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

__all__ = [
    "Books",
    "BooksUnavailableError",
    "accounts",
    "budgets",
    "credentials",
    "locked_account",
    "operations",
    "receipts",
    "servers",
    "spending",
]

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("sequence", BigInteger, nullable=False, default=0),
    Column("head", String(64), nullable=False, default="0" * 64),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

budgets = Table(
    "budgets",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("period", String(8), primary_key=True),
    Column("max_forwards", BigInteger),
    Column("max_queries", BigInteger),
    Column("max_price_micros", BigInteger),
)

spending = Table(
    "spending",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("span", String(16), primary_key=True),
    Column("forwards", BigInteger, nullable=False, default=0),
    Column("queries", BigInteger, nullable=False, default=0),
    Column("price_micros", BigInteger, nullable=False, default=0),
    Column("held_forwards", BigInteger, nullable=False, default=0),
    Column("held_queries", BigInteger, nullable=False, default=0),
    Column("held_price_micros", BigInteger, nullable=False, default=0),
)

operations = Table(
    "operations",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("route", String(64), nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("token", String(32), nullable=False),
    Column("server", String(32), nullable=False, index=True),
    Column("state", String(8), nullable=False),
    Column("day", String(10), nullable=False),
    Column("forwards", BigInteger, nullable=False),
    Column("queries", BigInteger, nullable=False),
    Column("price_micros", BigInteger, nullable=False),
    Column("finished_at", Float, index=True),
    Column("reply", LargeBinary),
)

receipts = Table(
    "receipts",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("model", String(256), nullable=False),
    Column("day", String(10), nullable=False),
    Column("forwards", BigInteger, nullable=False),
    Column("queries", BigInteger, nullable=False),
    Column("price_micros", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("seen_at", Float, nullable=False),
)


class BooksUnavailableError(Exception):
    """The database cannot be reached or used; nothing was written."""


class Books:
    """A database holding the tables of this module.

    Raises:
        BooksUnavailableError: from every method, where the database cannot be used.
    """

    def __init__(self, url: str | sa.URL) -> None:
        address = sa.make_url(url)
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        self._sqlite = address.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"connect_args": {"timeout": 30}} if self._sqlite else {"pool_pre_ping": True}
        self._engine = sa.create_engine(address, pool_size=8, max_overflow=56, hide_parameters=True, **options)
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._create()

    @retry(
        retry=retry_if_exception_type(BooksUnavailableError),
        wait=wait_random(0.05, 0.3),
        stop=stop_after_delay(3),
        reraise=True,
    )
    def _create(self) -> None:
        """Create what is missing; several servers may start at the same moment."""
        with self.write() as connection:
            if not self._sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(4202304058180)"))
            metadata.create_all(connection)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """Yield a connection inside a transaction that may write; it commits at the end, or rolls back on error.

        What is not `durable` may be forgotten, whole, if the power fails before the next that is: it waits for no disk.
        """
        with _mapped(), self._engine.connect() as plain:
            connection = plain.execution_options(blackbox_ti_write="FULL" if durable else "NORMAL")
            with connection.begin():
                if not durable and not self._sqlite:
                    connection.execute(sa.text("SET LOCAL synchronous_commit TO OFF"))
                yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection for reading one consistent state."""
        with _mapped(), self._engine.connect() as plain:
            # a transaction of SQLite is one snapshot anyway, PostgreSQL's only when told so
            connection = plain if self._sqlite else plain.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        raise BooksUnavailableError("the books' database cannot be used") from error


def locked_account(connection: sa.Connection, account_id: int) -> sa.Row[Any]:
    """Return the account's row, locked until the transaction ends."""
    query = sa.select(accounts).where(accounts.c.id == account_id).with_for_update()
    return connection.execute(query).one()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let this module say where transactions begin; WAL lets readers go on beside a writer."""
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=30000")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    synchronous = connection.get_execution_options().get("blackbox_ti_write")
    if synchronous:
        connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")
