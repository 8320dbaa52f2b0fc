"""The service's database: opened, migrated and used here and nowhere else.

Work is a function of a session, run in a thread and in one transaction. It takes and returns plain
values, so that no row outlives its transaction. Sessions never meet another thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
from sqlalchemy import orm

from habari.core import errors

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[orm.Session, P], T]

BUSY_TIMEOUT_S = 10.0
"""How long a transaction waits for another process to finish writing, in seconds; arbitrary, longer than ours."""

_THREADS = 4  # its own, so that calls that hang at the object store cannot hold up the database
_LOG = logging.getLogger(__name__)


class Database:
    """A SQLite or PostgreSQL database.

    Args:
        url: SQLAlchemy's address, for example `sqlite:////var/lib/habari/storage.sqlite`.

    Raises:
        ConfigError: If the address means nothing or the file cannot be made.
    """

    def __init__(self, url: str) -> None:
        """Make the engine and, for SQLite, the file; connect to nothing."""
        try:
            self._url = sa.make_url(url)
            # Statements carry issuers, subjects and sealed keys: none of them belongs in an error's text.
            self._engine = sa.create_engine(self._url, hide_parameters=True, pool_pre_ping=not self._is_sqlite)
        except (sa.exc.ArgumentError, ImportError) as error:
            msg = "HABARI_DATABASE_URL is not an address of a database that can be used; expected sqlite:////PATH."
            raise errors.ConfigError(msg) from error
        if self._is_sqlite:
            self._make_file()
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(immediate=True)
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="database")

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _make_file(self) -> None:
        path = Path(self._url.database or "")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)
        except OSError as error:
            msg = f"The database {path} cannot be opened: {error.strerror}. HABARI_DATABASE_URL names it."
            raise errors.ConfigError(msg) from error

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision; blocks, and is called before anything is served.

        Raises:
            ConfigError: If the database cannot be used or was made by a newer Habari.
        """
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        try:
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                if revision == "base":
                    alembic.command.downgrade(config, revision)
                else:
                    alembic.command.upgrade(config, revision)
        except alembic.util.CommandError as error:
            msg = f"The database {self._shown} was made by another version of Habari: {error}. Install that version."
            raise errors.ConfigError(msg) from error
        except sa.exc.DBAPIError as error:
            msg = f"The database {self._shown} cannot be used: {error.orig}."
            raise errors.ConfigError(msg) from error

    @property
    def _shown(self) -> str:
        return str(self._url.database) if self._is_sqlite else self._url.render_as_string(hide_password=True)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work that changes nothing, and return what it returns.

        Raises:
            UnavailableError: If the database does not answer.
        """
        return await self._run(self._engine, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work in one transaction, which is on disk when this returns; on an error nothing has changed.

        A caller that is cancelled does not stop the transaction: it ends in one of the two ways.

        Raises:
            ConflictError: If somebody else made the same thing meanwhile.
            UnavailableError: If the database does not answer or takes no change.
        """
        return await self._run(self._writer, work, *args, **kwargs)

    async def _run(self, engine: sa.Engine, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def transaction() -> T:
            with orm.Session(engine) as session, session.begin():
                return work(session, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, transaction)
        except sa.exc.IntegrityError as error:
            msg = "The same thing was changed by somebody else at the same moment; look at it again and repeat."
            raise errors.ConflictError(msg) from error
        except sa.exc.OperationalError as error:
            _LOG.error("The database %s failed: %s", self._shown, error.orig)
            msg = "The storage service cannot use its database now; try again, and tell your administrator if it stays."
            raise errors.UnavailableError(msg) from error

    def close(self) -> None:
        """Wait for running transactions and release everything."""
        self._pool.shutdown()
        self._engine.dispose()


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    connection.isolation_level = None  # `_begin_sqlite` begins, since the driver would begin too late to read safely
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}",
        "foreign_keys = ON",
        "journal_mode = WAL",
        "synchronous = FULL",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
