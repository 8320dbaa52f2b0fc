"""The database: its file, its migrations, and what happens when it cannot be used."""

from __future__ import annotations

import asyncio
import datetime
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alembic.autogenerate
import alembic.migration
import pytest
import sqlalchemy as sa

from habari.core import errors
from habari.service import database, tables

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[database.Database]:
    made = database.Database(f"sqlite:///{tmp_path}/storage.sqlite")
    made.migrate()
    yield made
    made.close()


def layout(db: database.Database) -> dict[str, str]:
    """Return each table and index as SQLite describes it, constraints in any order."""
    with db._engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
        ).all()
    return {name: " ".join(sorted(re.split(r",\s*\n", re.sub(r"\s*\n\)\s*$", "", sql)))) for name, sql in rows}


def add(session: Any, at: datetime.datetime, text: str = "x") -> None:
    session.add(tables.Audit(at=at, who=text, what="", object="", origin=""))


def test_migrations_make_exactly_the_tables_of_the_models(db: database.Database, tmp_path: Path) -> None:
    with db._engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection)
        assert alembic.autogenerate.compare_metadata(context, tables.Table.metadata) == []
    direct = database.Database(f"sqlite:///{tmp_path}/direct.sqlite")
    tables.Table.metadata.create_all(direct._engine)
    assert layout(db) == layout(direct)
    direct.close()


def test_migrations_go_down_and_up(db: database.Database) -> None:
    before = layout(db)
    db.migrate("base")
    assert layout(db) == {}
    db.migrate()
    assert layout(db) == before
    db.migrate()


def test_the_file_is_private_and_durable(db: database.Database, tmp_path: Path) -> None:
    for file in tmp_path.glob("storage.sqlite*"):
        assert file.stat().st_mode & 0o777 == 0o600
    with db._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_file_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "storage.sqlite"
    file.touch(0o644)
    file.chmod(0o644)
    database.Database(f"sqlite:///{file}").close()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_times_are_kept_aware_and_in_utc(db: database.Database) -> None:
    await db.write(add, NOON)
    found = await db.read(lambda session: session.scalars(sa.select(tables.Audit.at)).one())
    assert found == NOON
    assert found.tzinfo is datetime.UTC
    with pytest.raises(sa.exc.StatementError, match="has no zone; expected an aware time"):
        await db.write(add, NOON.replace(tzinfo=None))


async def test_work_that_fails_changes_nothing(db: database.Database) -> None:
    def fail(session: Any) -> None:
        add(session, NOON)
        session.flush()
        message = "no"
        raise errors.NotFoundError(message)

    with pytest.raises(errors.NotFoundError):
        await db.write(fail)
    assert await db.read(lambda session: session.query(tables.Audit).count()) == 0


async def test_writers_at_once_lose_nothing(db: database.Database) -> None:
    def count_up(session: Any) -> None:
        group = session.get(tables.Group, ("everyone", ""))
        if group is None:
            session.add(tables.Group(kind="everyone", name="", generation=1, applied_generation=0))
        else:
            group.generation = group.generation + 1

    await asyncio.gather(*(db.write(count_up) for _ in range(50)))
    assert await db.read(lambda session: session.get(tables.Group, ("everyone", "")).generation) == 50


async def test_a_second_row_of_a_unique_name_is_a_conflict(db: database.Database) -> None:
    def twice(session: Any) -> None:
        for _ in range(2):
            session.execute(sa.insert(tables.Group).values(kind="user", name="x", generation=0, applied_generation=0))

    with pytest.raises(errors.ConflictError) as caught:
        await db.write(twice)
    assert str(caught.value) == (
        "The same thing was changed by somebody else at the same moment; look at it again and repeat."
    )


async def test_a_database_that_is_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)
    db = database.Database(f"sqlite:///{tmp_path}/storage.sqlite")
    db.migrate()
    other = sqlite3.connect(tmp_path / "storage.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.UnavailableError) as caught:
        await db.write(add, NOON, "a private name")
    assert str(caught.value) == (
        "The storage service cannot use its database now; try again, and tell your administrator if it stays."
    )
    assert "database is locked" in caplog.text
    assert "a private name" not in caplog.text
    other.execute("ROLLBACK")
    other.close()
    await db.write(add, NOON)
    db.close()


def test_a_database_of_a_newer_version_is_refused(db: database.Database, tmp_path: Path) -> None:
    with db._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(errors.ConfigError) as caught:
        db.migrate()
    assert str(caught.value) == (
        f"The database {tmp_path}/storage.sqlite was made by another version of Habari: "
        "Can't locate revision identified by '9999'. Install that version."
    )


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "storage.sqlite"
    file.write_text("this is a text " * 100)
    db = database.Database(f"sqlite:///{file}")
    with pytest.raises(errors.ConfigError) as caught:
        db.migrate()
    assert str(caught.value) == f"The database {file} cannot be used: file is not a database."
    db.close()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        database.Database(f"sqlite:///{tmp_path}/none/storage.sqlite")
    assert str(caught.value) == (
        f"The database {tmp_path}/none/storage.sqlite cannot be opened: No such file or directory. "
        "HABARI_DATABASE_URL names it."
    )


@pytest.mark.parametrize("url", ["nonsense", "nosuchkind://user:password@host/name"])
def test_an_address_that_means_nothing_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        database.Database(url)
    assert str(caught.value) == (
        "HABARI_DATABASE_URL is not an address of a database that can be used; expected sqlite:////PATH."
    )
