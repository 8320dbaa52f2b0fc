"""Signing in with a local account at a real hub, and changing the password there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import hub_process
import pytest
import storage_stand_in

from habari.local import accounts

pytestmark = pytest.mark.hub


@pytest.fixture
async def storage() -> AsyncIterator[storage_stand_in.StorageStandIn]:
    async with storage_stand_in.StorageStandIn().serving() as serving:
        yield serving


@pytest.fixture
async def hub(tmp_path: Path, storage: storage_stand_in.StorageStandIn) -> AsyncIterator[hub_process.Hub]:
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
                while (await elsewhere.api("GET", "/users/bob")).json()["servers"]:
                    await asyncio.sleep(0.1)


async def tokens_of(browser: hub_process.Browser, hub: hub_process.Hub) -> dict[str, str]:
    """Return what a browser that is signed in as ada can hold: her server's own token, its cookie's, and one made."""
    env = json.loads((hub.data / "server-ada.json").read_text())
    back = env["JUPYTERHUB_OAUTH_CALLBACK_URL"]
    query = {"client_id": env["JUPYTERHUB_CLIENT_ID"], "redirect_uri": back, "response_type": "code", "state": "x"}
    asked = await browser.client.get("/hub/api/oauth2/authorize", params=query)
    form = {
        "client_id": env["JUPYTERHUB_CLIENT_ID"],
        "client_secret": env["JUPYTERHUB_API_TOKEN"],
        "grant_type": "authorization_code",
        "code": asked.headers["location"].split("code=")[1].split("&")[0],
        "redirect_uri": back,
    }
    cookie = (await browser.client.post("/hub/api/oauth2/token", data=form)).json()["access_token"]
    made = (await browser.api("POST", "/users/ada/tokens", json={"note": "Server at /user/ada/"})).json()
    assert made["expires_at"], "no token lives without end"
    return {"server": env["JUPYTERHUB_API_TOKEN"], "cookie": cookie, "made": made["token"]}


async def valid(hub: hub_process.Hub, tokens: dict[str, str]) -> set[str]:
    answers = {
        name: await get(f"{hub.url}/hub/api/user", {"Authorization": f"token {token}"})
        for name, token in tokens.items()
    }
    return {name for name, answer in answers.items() if answer.status_code == 200}


async def test_a_new_password_ends_every_other_session_and_token(hub: hub_process.Hub) -> None:
    file, first, new = hub.data / accounts.FILE, hub.passwords["ada"], "correct horse battery"
    async with hub_process.Browser.of(hub) as thief, hub_process.Browser.of(hub) as ada:
        await thief.sign_in("ada", first)
        assert (await thief.launch("ada"))[-1]["ready"]
        await ada.sign_in("ada", first)
        for by_herself in (True, False):
            tokens = await tokens_of(thief, hub)
            assert await valid(hub, tokens) == {"server", "cookie", "made"}
            if by_herself:
                assert "Your password is changed." in (await change(ada, first, new, new)).text
                assert await valid(hub, tokens) == {"server"}
                assert (await ada.get("/hub/home")).url.path == "/hub/home"
                assert (await thief.get("/hub/home")).url.path == "/hub/login"
                await thief.sign_in("ada", new)
            else:
                again = await asyncio.to_thread(accounts.reset_password, file, "ada")
                async with asyncio.timeout(10):
                    while await valid(hub, tokens) != {"server"}:
                        await asyncio.sleep(0.1)
                assert (await thief.get("/hub/home")).url.path == "/hub/login"
                assert (await ada.get("/hub/home")).url.path == "/hub/login"
                assert (await ada.sign_in("ada", again)).status_code == 302
                assert (await thief.get("/hub/home")).url.path == "/hub/login"
                # The watcher does not end the sessions that began with the new password.
                await asyncio.to_thread(accounts.add, file, "bob")
                await asyncio.sleep(1.5)
                assert (await ada.get("/hub/home")).url.path == "/hub/home"
        assert (await ada.api("GET", "/users/ada")).json()["servers"][""]["ready"]


async def test_a_removed_accounts_launch_is_ended_and_its_keys_are_taken_back(
    hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    file = hub.data / accounts.FILE
    bobs = await asyncio.to_thread(accounts.add, file, "bob")
    subject = accounts.load(file)["bob"].subject
    async with hub_process.Browser.of(hub) as ada, hub_process.Browser.of(hub) as bob:
        await ada.sign_in("ada", hub.passwords["ada"])
        await bob.sign_in("bob", bobs)
        storage.gate.clear()
        storage.free_lines = 2
        storage.refuse_to_retire = True
        launching = asyncio.create_task(bob.api("POST", "/users/bob/server", json={}))
        async with asyncio.timeout(30):
            while not storage.requests:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(accounts.remove, file, "bob")
            answer = await launching
            storage.gate.set()
            while "The object store does not answer." not in hub.log.read_text():
                await asyncio.sleep(0.1)
            storage.refuse_to_retire = False
            while not storage.retired:
                await asyncio.sleep(0.1)
        assert storage.retired == [("bob", subject)]
        assert (await ada.api("GET", "/users/bob")).json()["servers"] == {}, "the server ends before the keys"
        assert not (hub.data / "server-bob.json").exists()
        if answer.status_code != 202:  # else the launch was slower than what the hub waits for
            assert answer.status_code == 403
            assert answer.json()["message"] == "The access of 'bob' has ended, so its server was not started."


async def test_another_person_is_refused_in_plain_words(
    hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    storage.people["ada"] = ("local", "another")
    async with hub_process.Browser.of(hub) as ada:
        refused = await ada.sign_in("ada", hub.passwords["ada"])
        assert refused.status_code == 409
        assert "is 100% another person" in refused.text


async def test_guesses_wait_and_the_owner_gets_in(hub: hub_process.Hub) -> None:
    async with contextlib.AsyncExitStack() as opened:
        known, stranger, fresh, kernel = [
            await opened.enter_async_context(hub_process.Browser.of(hub, address))
            for address in ("192.0.2.66", "192.0.2.66", "192.0.2.66", "")
        ]
        assert (await known.sign_in("ada", hub.passwords["ada"])).status_code == 302
        known.cookies = {name: value for name, value in known.cookies.items() if name == "habari-known-browser"}
        begun = time.monotonic()
        guesses = [await stranger.sign_in("ada", "a guess") for _ in range(13)]
        assert {answer.status_code for answer in guesses} == {403}
        assert time.monotonic() - begun > 1.5, "past ten, one a second"

        # A flood from the owner's own address, with the proxy's word or an invented one, fills every turn.
        kernel.client.headers["X-Forwarded-For"] = "192.0.2.66"
        page = (await kernel.client.get("/hub/login")).text
        field = re.search(r'name="_xsrf" value="([^"]*)"', page)
        assert field
        form = {"_xsrf": field[1], "username": "ada", "password": "a guess"}
        flood = [asyncio.create_task(kernel.client.post("/hub/login", data=form)) for _ in range(60)]
        async with asyncio.timeout(30):
            while not (refused := [each for each in flood if each.done() and each.result().status_code == 429]):
                await asyncio.sleep(0.05)
        text = "Too many tries to sign in wait for their turn. Wait a minute, then try again."
        assert text in refused[0].result().text
        assert (await known.sign_in("ada", hub.passwords["ada"])).status_code == 302, "a browser she used before"
        assert (await fresh.sign_in("nobody", "x")).status_code == 403, "other accounts are not held up"
        for each in flood:
            each.cancel()
        await asyncio.wait(flood)


async def get(url: str, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url, headers=headers)


async def change(browser: hub_process.Browser, current: str, new: str, again: str) -> httpx.Response:
    return await browser.post("/hub/account", page="/hub/account", current=current, new=new, again=again)
