"""The launch: storage first, shown step by step; no server without it; the hub never blocked."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import hub_process
import pytest
import storage_stand_in
from jupyterhub.spawner import SimpleLocalProcessSpawner

from habari.core import errors, model
from habari.hub import client, identity, launch
from habari.local import homes

IDENTIFY = ["read:users:groups!user=ada", "read:users:name!user=ada"]
"""What the hub tells about its owner to any token."""


def step(line: dict[str, str]) -> bytes:
    return json.dumps(line).encode()


def test_a_step_is_read_and_a_failed_one_raises_its_sentence() -> None:
    assert client.read_step(step({"step": "grants", "state": "done"})) == model.Step(step="grants", state="done")
    with pytest.raises(errors.UnavailableError, match=r"^No room in the store\.$"):
        client.read_step(step({"step": "grants", "state": "failed", "message": "No room in the store."}))
    with pytest.raises(errors.UnavailableError, match=r"^The step 'grants' of your launch failed\. Try again\.$"):
        client.read_step(step({"step": "grants", "state": "failed"}))
    with pytest.raises(
        errors.UnavailableError, match=r"an answer that the hub does not understand.*different versions"
    ):
        client.read_step(b"<html>")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidInputError),
        (403, errors.NotPermittedError),
        (409, errors.ConflictError),
        (503, errors.UnavailableError),
        (500, errors.UnavailableError),
    ],
)
def test_a_refusal_keeps_its_sentence_and_kind(status: int, kind: type[errors.PublicError]) -> None:
    body = b'{"error": {"code": "x", "message": "The identity of ada is retired."}}'
    refused = client.read_refusal(status, body)
    assert type(refused) is kind
    assert str(refused) == "The identity of ada is retired."


def test_a_refusal_of_the_hub_itself_is_told_apart() -> None:
    body = b'{"error": {"code": "not_authenticated", "message": "Unknown token."}}'
    assert "does not trust this hub: their launch tokens differ" in str(client.read_refusal(401, body))
    assert "does not understand" in str(client.read_refusal(502, b"Bad gateway"))


async def test_a_late_reader_sees_all_steps() -> None:
    journal = launch.Journal()
    first = model.Step(step="identity", state="started")
    journal.add(first)
    early = asyncio.create_task(collect(journal))
    await asyncio.sleep(0)
    journal.add(model.Step(step="identity", state="done"))
    journal.end()
    assert await early == await collect(journal) == ["identity started", "identity done"]


async def collect(journal: launch.Journal) -> list[str]:
    return [f"{each.step} {each.state}" async for _, each in journal.follow()]


def test_who_signed_in_is_needed() -> None:
    assert identity.read({"issuer": "local", "subject": "17"}, "ada") == ("local", "17")
    for state in (None, {}, {"issuer": "local"}, {"issuer": "local", "subject": ""}):
        with pytest.raises(
            errors.NotPermittedError, match=r"does not know who signed in as 'ada'.*Sign out, sign in again"
        ):
            identity.read(state, "ada")


def test_another_person_under_a_known_name_is_seen() -> None:
    known = {"issuer": "local", "subject": "17", "signed_in_at": 1.0}
    assert not identity.changed(None, known)
    assert not identity.changed(known, {**known, "signed_in_at": 2.0})
    assert identity.changed(known, {**known, "subject": "18"})
    assert identity.changed(known, {**known, "issuer": "https://github.com"})


def test_a_sign_in_counts_for_a_working_day() -> None:
    state = identity.make_binding("local", "17")
    now = state["signed_in_at"]
    assert identity.recent(state, now + 12 * 3600 - 1)
    assert not identity.recent(state, now + 12 * 3600)
    assert not identity.recent(None, now)


async def test_an_old_sign_in_launches_nothing_where_nobody_can_check_it_again() -> None:
    class Person:
        name = "ada"
        state = identity.make_binding("https://github.com", "17")

        async def get_auth_state(self) -> identity.Binding:
            return self.state

    spawner = launch.launching(SimpleLocalProcessSpawner)(longest_sign_in=float(identity.SESSION_S))
    spawner.user = Person()
    Person.state["signed_in_at"] -= identity.SESSION_S + 1
    with pytest.raises(
        errors.NotPermittedError,
        match=r"The last sign-in of 'ada' is more than 12 hours ago, so the server was not started\. Sign in again",
    ):
        await spawner._ensure(launch.Journal())


def test_the_next_hub_knows_the_servers_own_token() -> None:
    spawner_class = launch.launching(SimpleLocalProcessSpawner)
    first, second = spawner_class(), spawner_class()
    first._token_hash = "a hash"
    second.load_state(first.get_state())
    assert second.get_state()[identity.TOKEN_STATE] == "a hash"
    second.clear_state()
    assert identity.TOKEN_STATE not in second.get_state()


@pytest.mark.parametrize("make", [launch.LaunchError, homes.refusal])
def test_a_percent_sign_is_shown_once(make: Any) -> None:
    error = make(errors.NotPermittedError("The disk is 100% full."))
    assert error.get_message() == "The disk is 100% full."
    assert error.log_message % error.args == "The disk is 100% full."


def test_a_spawner_is_wrapped_once() -> None:
    wrapped = launch.launching(SimpleLocalProcessSpawner)
    assert issubclass(wrapped, launch.Launch)
    assert issubclass(wrapped, SimpleLocalProcessSpawner)
    assert launch.launching(wrapped) is wrapped
    with pytest.raises(launch.LaunchError, match=r"SimpleLocalProcessSpawner starts servers without a bucket"):
        launch.refuse_other_spawners(SimpleLocalProcessSpawner())


async def test_a_storage_service_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(errors.UnavailableError, match=r"did not make your bucket ready within 0 seconds"):
            await drain(f"http://127.0.0.1:{port}/", timeout_s=0.2)


async def test_a_storage_service_that_is_away_is_said() -> None:
    with pytest.raises(errors.UnavailableError, match=r"storage service does not answer.*your server was not started"):
        await drain(f"http://127.0.0.1:{hub_process.free_port()}/", timeout_s=5)


async def test_an_answer_that_breaks_off_starts_nothing(storage: storage_stand_in.StorageStandIn) -> None:
    storage.lines = storage.lines[:4]
    with pytest.raises(errors.UnavailableError, match=r"broke off before your bucket was ready"):
        await drain(storage.url, timeout_s=5)


async def drain(url: str, *, timeout_s: float) -> list[model.Step]:
    request = model.EnsureRequest(issuer="local", subject="17")
    return [each async for each in client.ensure(url, token="t", name="ada", request=request, timeout_s=timeout_s)]


@pytest.mark.hub
async def test_named_steps_pass_while_storage_is_made(
    ada: hub_process.Browser, hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    storage.gate.clear()
    storage.free_lines = 2
    launching = asyncio.create_task(ada.launch("ada"))
    async with asyncio.timeout(30):
        while not storage.requests:
            await asyncio.sleep(0.02)
    async with hub_process.Browser.of(hub) as other:
        await other.sign_in("ada", hub.passwords["ada"])
        late = asyncio.create_task(other.progress("ada"))
        # The hub does other work while the storage service hangs.
        begun = time.monotonic()
        assert (await other.get("/hub/home")).status_code == 200
        assert time.monotonic() - begun < 2
        storage.gate.set()
        seen = [event["message"] for event in await late]
    assert seen[0] == "Server requested"
    assert seen[1:8] == [
        "identity: …",
        "identity: done",
        "personal bucket: …",
        "personal bucket: done",
        "grants: …",
        "grants: done",
        "server: …",
    ]
    assert seen[8] == "the stand-in starts"
    assert (await launching)[-1]["ready"]
    name, authorization, request = storage.requests[0]
    assert name == "ada"
    assert authorization == f"Bearer {hub.token('launch_token')}"
    assert request["issuer"] == "local"
    assert request["admin"] is True


@pytest.mark.hub
async def test_a_failing_ensure_fails_the_launch_with_its_reason(
    ada: hub_process.Browser, hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    storage.fail("The store has no room for <b>ada</b>. Tell an administrator.")
    events = await ada.launch("ada")
    assert events[-1]["failed"]
    assert events[-1]["message"] == "Spawn failed: The store has no room for <b>ada</b>. Tell an administrator."
    assert "html_message" not in events[-1]
    page = await ada.get("/hub/spawn-pending/ada")
    assert "The store has no room for &lt;b&gt;ada&lt;/b&gt;. Tell an administrator." in page.text
    assert not (hub.data / "server-ada.json").exists()
    # The next try is a new one.
    storage.well()
    assert (await ada.launch("ada"))[-1]["ready"]


@pytest.mark.hub
async def test_a_refusing_storage_service_fails_the_launch(
    ada: hub_process.Browser, hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    storage.status = 409
    storage.body = {"error": {"code": "conflict", "message": "Another person used the name ada before."}}
    answer = await ada.api("POST", "/users/ada/server", json={})
    assert answer.status_code == 409
    assert "Another person used the name ada before." in answer.text
    assert not (hub.data / "server-ada.json").exists()


@pytest.mark.hub
async def test_nobody_is_launched_who_never_signed_in(
    ada: hub_process.Browser, hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    assert (await ada.api("POST", "/users/carl", json={})).status_code == 201
    answer = await ada.api("POST", "/users/carl/server", json={})
    assert answer.status_code == 403, hub.log.read_text()[-3000:]
    assert "There is no account 'carl' any more" in answer.json()["message"]
    assert storage.requests == []


@pytest.mark.hub
async def test_the_servers_token_may_do_just_what_is_meant(ada: hub_process.Browser, hub: hub_process.Hub) -> None:
    assert (await ada.launch("ada"))[-1]["ready"]
    env = json.loads((hub.data / "server-ada.json").read_text())
    assert env["HABARI_STORAGE_URL"] == hub.env["HABARI_STORAGE_URL"]
    assert not [name for name in env if name.startswith(("AWS_", "S3_"))]
    headers = {"Authorization": f"token {env['JUPYTERHUB_API_TOKEN']}"}
    me = (await ada.client.get("/hub/api/user", headers=headers)).json()
    assert sorted(me["scopes"]) == [
        "access:servers!server=ada/",
        "custom:habari:buckets:read!user=ada",
        "custom:habari:keys:read!user=ada",
        "read:users:activity!user=ada",
        *IDENTIFY,
        "users:activity!user=ada",
    ]
    # Even an administrator's server reads no list of users.
    assert (await ada.client.get("/hub/api/users", headers=headers)).status_code == 403


@pytest.mark.hub
async def test_a_browsers_token_opens_the_server_and_no_key(ada: hub_process.Browser, hub: hub_process.Hub) -> None:
    assert (await ada.launch("ada"))[-1]["ready"]
    env = json.loads((hub.data / "server-ada.json").read_text())
    client, secret = env["JUPYTERHUB_CLIENT_ID"], env["JUPYTERHUB_API_TOKEN"]
    back = env["JUPYTERHUB_OAUTH_CALLBACK_URL"]
    query = {"client_id": client, "redirect_uri": back, "response_type": "code", "state": "x"}
    answer = await ada.client.get("/hub/api/oauth2/authorize", params=query)
    assert answer.status_code == 302, answer.text
    code = answer.headers["location"].split("code=")[1].split("&")[0]
    form = {
        "client_id": client,
        "client_secret": secret,
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": back,
    }
    token = (await ada.client.post("/hub/api/oauth2/token", data=form)).json()["access_token"]
    me = (await ada.client.get("/hub/api/user", headers={"Authorization": f"Bearer {token}"})).json()
    assert sorted(me["scopes"]) == ["access:servers!server=ada/", *IDENTIFY]


@pytest.mark.hub
async def test_the_log_holds_no_secret(ada: hub_process.Browser, hub: hub_process.Hub) -> None:
    assert (await ada.launch("ada"))[-1]["ready"]
    log = hub.log.read_text()
    env = json.loads((hub.data / "server-ada.json").read_text())
    for secret in (hub.token("launch_token"), hub.token("service_token"), hub.token("crypt_key")):
        assert secret not in log
    assert env["JUPYTERHUB_API_TOKEN"] not in log
    assert hub.passwords["ada"] not in log
