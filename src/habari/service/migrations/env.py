"""Runs migrations on the connection that `habari.service.database` hands over."""

from __future__ import annotations

from alembic import context

from habari.service import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.Table.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
