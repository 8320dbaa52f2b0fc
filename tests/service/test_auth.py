"""Tokens, as a real JupyterHub and a broken one vouch for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import aiohttp.web
import pytest

from habari.core import model
from habari.service import auth

SCOPES = ("custom:habari:keys:read!user=ada", "custom:habari:buckets:read!user=ada")


def sentence(answer: Any) -> tuple[int, str]:
    return answer.status_code, model.ErrorBody.model_validate_json(answer.content).error.message


def shown(token: str) -> dict[str, str]:
    return {"Authorization": f"token {token}"}


@pytest.fixture(scope="module")
def users(hub: Any) -> Any:
    for name in ("ada", "bo", "ä.b"):
        hub.make_user(name)
    return hub


@pytest.mark.hub
async def test_a_users_token_gets_their_own_keys(serving: Any, users: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(users.api_url, token=users.admin_token) as api:
        assert (await api.http.get("ready")).status_code == 200
        for name in ("ada", "ä.b"):
            await api.ensure(name)
            token, _ = users.make_token(name, f"custom:habari:keys:read!user={name}")
            me = model.Me.model_validate_json((await api.http.get("me", headers=shown(token))).content)
            assert me.user == name
            assert me.keys.access_key_id
            assert me.keys.secret_access_key
            assert token not in caplog.text
            assert me.keys.secret_access_key not in caplog.text
        bearer = await api.http.get("me", headers={"Authorization": f"Bearer {token}"})
        assert bearer.json()["user"] == "ä.b"


@pytest.mark.hub
async def test_a_token_does_what_its_scopes_say(serving: Any, users: Any) -> None:
    async with serving(users.api_url) as api:
        await api.ensure()
        keys, _ = users.make_token("ada", SCOPES[0])
        buckets, _ = users.make_token("ada", SCOPES[1])
        neither, _ = users.make_token("ada", "read:users:name!user=ada")
        both, _ = users.make_token("ada", *SCOPES)
        for token, statuses in ((keys, (200, 403)), (buckets, (403, 200)), (neither, (403, 403)), (both, (200, 200))):
            found = [(await api.http.get(path, headers=shown(token))).status_code for path in ("me", "me/buckets")]
            assert tuple(found) == statuses
        assert sentence(await api.http.get("me", headers=shown(buckets))) == (
            403,
            "This token of the user 'ada' lacks the scope 'custom:habari:keys:read'; use one that has it.",
        )
        listed = (await api.http.get("me/buckets", headers=shown(both))).json()
        assert [each["name"] for each in listed] == ["lake", "notebooks", "user-ada"]


@pytest.mark.hub
async def test_tokens_that_nobody_vouches_for(serving: Any, users: Any) -> None:
    async with serving(users.api_url) as api:
        await api.ensure()
        token, token_id = users.make_token("ada", *SCOPES)
        assert (await api.http.get("me", headers=shown(token))).status_code == 200
        users.revoke("ada", token_id)
        for unknown in (token, "never-made"):
            assert sentence(await api.http.get("me", headers=shown(unknown))) == (
                401,
                "The hub does not know this token; it may have expired or been revoked. Restart the server.",
            )
        for headers in ({}, {"Authorization": "token"}, {"Authorization": "Basic YTpi"}):
            assert sentence(await api.http.get("me", headers=headers)) == (
                401,
                "No token was shown; send one of JupyterHub's in the header 'Authorization: token TOKEN'.",
            )
        assert sentence(await api.http.get("me", headers=shown(users.admin_token))) == (
            403,
            "This token belongs to a service of the hub; expected the token of a user.",
        )


@pytest.mark.hub
async def test_a_hub_that_does_not_know_the_service_is_said(serving: Any, users: Any) -> None:
    async with serving(users.api_url, token="of another hub") as api:
        assert sentence(await api.http.get("ready")) == (
            503,
            "The hub does not know this service's own token; give both the same secret service_token.",
        )


@pytest.mark.hub
async def test_keys_are_never_empty(serving: Any, users: Any) -> None:
    """A user who was never ensured, or not to the end, gets a sentence and no credential."""
    expected = "The storage of the user 'bo' has not been made yet; stop the server and launch it again."
    async with serving(users.api_url) as api:
        token, _ = users.make_token("bo", "custom:habari:keys:read!user=bo", "custom:habari:buckets:read!user=bo")
        assert sentence(await api.http.get("me", headers=shown(token))) == (409, expected)
        assert sentence(await api.http.get("me/buckets", headers=shown(token))) == (409, expected)
        for number in range(1, 8):
            api.faulty.calls.clear()
            api.faulty.fail_at = number
            last = (await api.ensure("bo")).text.splitlines()[-1]
            answer = await api.http.get("me", headers=shown(token))
            if answer.status_code == 200:
                assert answer.json()["keys"]["secret_access_key"]
            else:
                assert "failed" in last
                assert sentence(answer) == (409, expected)


@pytest.fixture
async def broken_hub() -> AsyncIterator[tuple[str, list[aiohttp.web.Response]]]:
    """Yield the address of a hub that answers with what a test puts in the list, and hangs when it is empty."""
    answers: list[aiohttp.web.Response] = []
    over = asyncio.Event()

    async def answer(_: aiohttp.web.Request) -> aiohttp.web.Response:
        if not answers:
            await over.wait()
            return aiohttp.web.Response()
        return answers.pop()

    application = aiohttp.web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hub/api", answers
    over.set()
    await runner.cleanup()


async def test_a_hub_that_is_away_or_broken(serving: Any, broken_hub: Any) -> None:
    url, answers = broken_hub
    async with serving(url) as api:
        answers.append(aiohttp.web.Response(status=502))
        assert sentence(await api.http.get("me", headers=shown("x"))) == (
            503,
            "The hub answers with status 502; try again in a moment.",
        )
        for odd in (
            aiohttp.web.Response(text="<html>"),
            aiohttp.web.json_response({"kind": "user"}),
            aiohttp.web.Response(status=302, headers={"Location": "http://example.org/"}),
        ):
            answers.append(odd)
            status, message = sentence(await api.http.get("me", headers=shown("x")))
            assert status == 503
            assert message.endswith("and no user when asked about a token; is it JupyterHub?")
        answers.append(aiohttp.web.Response(status=404))
        assert sentence(await api.http.get("ready")) == (
            503,
            "The hub answers with status 404 when asked about a token; is JUPYTERHUB_API_URL right?",
        )
    async with serving() as api:
        assert sentence(await api.http.get("me", headers=shown("x"))) == (
            503,
            "The hub does not answer (ClientConnectorError); try again in a moment.",
        )


async def test_a_hub_that_hangs(serving: Any, broken_hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "TIMEOUT_S", 0.05)
    url, _ = broken_hub
    async with serving(url) as api:
        status, message = sentence(await api.http.get("me", headers=shown("x")))
        assert (status, message.startswith("The hub does not answer (")) == (503, True)


async def test_a_scope_of_another_user_is_not_enough() -> None:
    caller = auth.Caller("bo", frozenset({"custom:habari:keys:read!user=ada", "custom:habari:keys:read!server=bo/"}))
    with pytest.raises(Exception, match="lacks the scope"):
        caller.must_have(auth.KEYS_SCOPE)
    auth.Caller("bo", frozenset({auth.KEYS_SCOPE})).must_have(auth.KEYS_SCOPE)
