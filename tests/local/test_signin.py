"""Signing in with a local account at a real hub, and changing the password there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import hub_process
import pytest
import storage_stand_in

from habari.local import accounts

pytestmark = pytest.mark.hub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[hub_process.Hub]:
    async with storage_stand_in.StorageStandIn().serving() as storage:
        made = hub_process.Hub(tmp_path / "data", storage.url, spawner="server_stand_in.StandInSpawner")
        made.passwords = {"ada": accounts.add(made.data / accounts.FILE, "ada", admin=True)}
        await asyncio.to_thread(made.start)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.stop)


async def test_accounts_from_the_first_password_to_the_last_session(hub: hub_process.Hub) -> None:
    file, first = hub.data / accounts.FILE, hub.passwords["ada"]
    async with hub_process.Browser.of(hub) as ada, hub_process.Browser.of(hub) as elsewhere:
        # Nobody is let in by default, and an unknown name looks like a wrong password.
        for name, password in (("ada", "wrong password"), ("nobody", first), ("", "")):
            answer = await elsewhere.sign_in(name, password)
            assert answer.status_code == 403
            assert "Invalid username or password" in answer.text

        # The first password leads to the page that replaces it.
        answer = await ada.sign_in("Ada", first)
        assert answer.headers["location"].startswith("/hub/account?next=")
        page = await ada.get(answer.headers["location"])
        assert "You signed in with a password that was made for you." in page.text
        await elsewhere.sign_in("ada", first)
        assert (await elsewhere.get("/hub/home")).url.path == "/hub/home"

        new = "correct horse battery"
        wrong = await change(ada, "not my password", new, new)
        assert wrong.status_code == 403
        assert "The current password is wrong; your password was not changed." in wrong.text
        differ = await change(ada, first, new, new + "!")
        assert "The two new passwords differ; type the same one twice." in differ.text
        short = await change(ada, first, "short", "short")
        assert short.status_code == 400
        assert "expected 12 or more" in short.text
        forged = await ada.client.post("/hub/account", data={"current": first, "new": new, "again": new})
        assert forged.status_code == 403

        done = await change(ada, first, new, new)
        assert "Your password is changed." in done.text
        assert (await ada.get("/hub/home")).url.path == "/hub/home"
        assert (await elsewhere.get("/hub/home")).url.path == "/hub/login", "other sessions end"
        assert (await elsewhere.sign_in("ada", first)).status_code == 403
        answer = await elsewhere.sign_in("ada", new)
        assert "/hub/account" not in answer.headers["location"]

        # The command line works while the hub runs, at once.
        bobs = await asyncio.to_thread(accounts.add, file, "bob")
        async with hub_process.Browser.of(hub) as bob:
            assert (await bob.sign_in("bob", bobs)).status_code == 302
            assert (await bob.api("GET", "/users")).status_code == 403, "no administrator"
            assert (await bob.launch("bob"))[-1]["ready"]
            env = json.loads((hub.data / "server-bob.json").read_text())
            headers = {"Authorization": f"token {env['JUPYTERHUB_API_TOKEN']}"}
            assert (await get(f"{hub.url}/hub/api/user", headers)).json()["name"] == "bob"
            await asyncio.to_thread(accounts.remove, file, "bob")
            async with hub_process.Browser.of(hub) as again:
                assert (await again.sign_in("bob", bobs)).status_code == 403
            async with asyncio.timeout(10):
                while (await bob.get("/hub/home")).url.path != "/hub/login":
                    await asyncio.sleep(0.1)
                while (await get(f"{hub.url}/hub/api/user", headers)).status_code != 403:
                    await asyncio.sleep(0.1)
            assert (await elsewhere.api("GET", "/users/bob")).json()["servers"] == {}


async def test_guessing_is_slowed_down_and_the_owner_is_not(hub: hub_process.Hub) -> None:
    async with (
        hub_process.Browser.of(hub, "192.0.2.66") as stranger,
        hub_process.Browser.of(hub, "198.51.100.7") as ada,
    ):
        # On a slow machine the first short waits pass by themselves.
        for _ in range(40):
            refused = await stranger.sign_in("ada", "a guess")
            seconds = re.search(r"Wait (\d+) seconds", refused.text)
            if refused.status_code == 429 and seconds and int(seconds[1]) >= 8:
                break
        answer = await stranger.sign_in("ada", hub.passwords["ada"])
        assert answer.status_code == 429, "even the right password must wait"
        assert "Too many wrong passwords. Wait" in answer.text
        assert (await ada.sign_in("ada", hub.passwords["ada"])).status_code == 302


async def get(url: str, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url, headers=headers)


async def change(browser: hub_process.Browser, current: str, new: str, again: str) -> httpx.Response:
    return await browser.post("/hub/account", page="/hub/account", current=current, new=new, again=again)
