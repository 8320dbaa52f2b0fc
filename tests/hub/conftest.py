"""A hub whose servers are small stand-ins, and a storage service whose answers a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import hub_process
import pytest
import storage_stand_in

from habari.local import accounts


@pytest.fixture
async def storage() -> AsyncIterator[storage_stand_in.StorageStandIn]:
    """Yield a storage service that answers well."""
    async with storage_stand_in.StorageStandIn().serving() as serving:
        yield serving


@pytest.fixture
async def hub(tmp_path: Path, storage: storage_stand_in.StorageStandIn) -> AsyncIterator[hub_process.Hub]:
    """Yield a running hub whose servers are stand-ins, with the accounts `ada` (an administrator) and `bob`."""
    made = hub_process.Hub(tmp_path / "data", storage.url, spawner="server_stand_in.StandInSpawner")
    made.passwords = {
        name: accounts.add(made.data / accounts.FILE, name, admin=name == "ada") for name in ("ada", "bob")
    }
    await asyncio.to_thread(made.start)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.stop)


@pytest.fixture
async def ada(hub: hub_process.Hub) -> AsyncIterator[hub_process.Browser]:
    """Yield the session of somebody who has signed in."""
    async with hub_process.Browser.of(hub) as browser:
        answer = await browser.sign_in("ada", hub.passwords["ada"])
        assert answer.status_code == 302, answer.text
        yield browser
