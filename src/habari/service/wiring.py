"""Joins the parts of the service, and owns what runs beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator

import aiohttp

from habari.service import auth, database, declaration, ensure, identities, keeper, sealing, settings, views
from habari.storage import base


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the routes call."""

    backend: base.Backend
    hub: auth.Hub
    ensurer: ensure.Ensurer
    views: views.Views
    keeper: keeper.Keeper


@contextlib.asynccontextmanager
async def running(told: settings.Settings, db: database.Database, backend: base.Backend) -> AsyncIterator[Parts]:
    """Bring the declaration into the migrated database, and yield the parts while the sweep runs.

    The sweep and every running ensure belong to this context. If the sweep fails in a way nobody foresaw, the
    body is cancelled, so that the process ends and is started again.

    Raises:
        ConfigError: If the declaration or the encryption keys do not fit the database.
    """
    prefix = told.tenant.buckets.prefix
    sealer = sealing.Sealer(told.secrets.encryption_keys)
    await db.write(declaration.sync, told.tenant.buckets, now=datetime.datetime.now(datetime.UTC))
    if (sealed := await db.read(identities.any_sealed)) is not None:
        sealer.open(sealed)
    keep = keeper.Keeper(db, backend, sealer, prefix=prefix)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        sweep = tasks.create_task(keep.run(), name="sweep")
        ensurer = ensure.Ensurer(db, keep, prefix=prefix, tasks=tasks)
        yield Parts(
            backend=backend,
            hub=auth.Hub(told.hub_api_url, told.secrets.service_token, session),
            ensurer=ensurer,
            views=views.Views(db, backend.endpoint, sealer, prefix=prefix),
            keeper=keep,
        )
        sweep.cancel()
        ensurer.cancel()
