"""Sign-in with GitHub, against a stand-in: a small server on loopback that speaks the few calls of GitHub used here.

GitHub itself was not asked; what the stand-in answers follows https://docs.github.com/en/apps/oauth-apps and
https://docs.github.com/en/rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import hub_process
import pytest
import storage_stand_in
from aiohttp import web

from habari.core import errors
from habari.hub import github

CONFIG = """
sign_in:
  method: github
  admin_users: [Root]
  allowed_users: [ada]
  github:
    client_id: the-client
    client_secret_file: {secret}
    allowed_organizations: [friends]
    url: {url}
    api_url: {url}/api
"""


class GitHubStandIn:
    """Signs in whoever `login` names, with the number and organizations given there."""

    def __init__(self) -> None:
        """Know nobody."""
        self.url = ""
        self.login = ""
        self.numbers: dict[str, int] = {}
        self.members: set[str] = set()
        self.tokens: dict[str, str] = {}

    async def token(self, request: web.Request) -> web.Response:
        """Change a code for a token."""
        form = await request.post()
        assert form["client_secret"] == "the-client-secret"
        token = secrets.token_hex(16)
        self.tokens[token] = self.login
        return web.json_response({"access_token": token, "token_type": "bearer", "scope": "read:org"})

    def _login(self, request: web.Request) -> str:
        return self.tokens[request.headers["Authorization"].split()[1]]

    async def user(self, request: web.Request) -> web.Response:
        """Tell who a token belongs to."""
        login = self._login(request)
        return web.json_response({"login": login, "id": self.numbers[login], "email": None, "name": login})

    async def member(self, request: web.Request) -> web.Response:
        """Tell whether somebody is in an organization."""
        self._login(request)
        named = request.match_info["login"] in self.members and request.match_info["org"] == "friends"
        return web.Response(status=204 if named else 404)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[GitHubStandIn]:
        """Serve on a free port."""
        app = web.Application()
        app.router.add_post("/login/oauth/access_token", self.token)
        app.router.add_get("/api/user", self.user)
        app.router.add_get("/api/orgs/{org}/members/{login}", self.member)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def sign_in(browser: hub_process.Browser, standing_in: GitHubStandIn, login: str) -> httpx.Response:
    """Sign in as the browser of somebody whom GitHub knows would, and return the hub's last answer."""
    standing_in.login = login
    asked = await browser.client.get("/hub/oauth_login")
    assert asked.headers["location"].startswith(f"{standing_in.url}/login/oauth/authorize?"), asked.text
    query = parse_qs(urlsplit(asked.headers["location"]).query)
    assert query["scope"] == ["read:org"]
    return await browser.client.get("/hub/oauth_callback", params={"code": "a-code", "state": query["state"][0]})


@pytest.mark.hub
async def test_who_is_let_in_and_who_is_the_same_person(tmp_path: Path) -> None:
    async with GitHubStandIn().serving() as standing_in, storage_stand_in.StorageStandIn().serving() as storage:
        secret = tmp_path / "client-secret"
        secret.write_text("the-client-secret\n")
        secret.chmod(0o600)
        (tmp_path / "habari.yaml").write_text(CONFIG.format(secret=secret, url=standing_in.url))
        hub = hub_process.Hub(
            tmp_path / "data",
            storage.url,
            spawner="server_stand_in.StandInSpawner",
            HABARI_CONFIG=str(tmp_path / "habari.yaml"),
        )
        await asyncio.to_thread(hub.start)
        try:
            await people(hub, standing_in, storage)
        finally:
            await asyncio.to_thread(hub.stop)
        log = hub.log.read_text()
        assert not [token for token in standing_in.tokens if token in log]
        database = (hub.data / "hub" / "jupyterhub.sqlite").read_bytes()
        assert not [token for token in standing_in.tokens if token.encode() in database]


async def people(hub: hub_process.Hub, standing_in: GitHubStandIn, storage: storage_stand_in.StorageStandIn) -> None:
    standing_in.numbers = {"Ada": 101, "Root": 102, "Friend": 103, "Stranger": 104}
    standing_in.members = {"friend"}
    async with contextlib.AsyncExitStack() as opened:

        async def browser() -> hub_process.Browser:
            return await opened.enter_async_context(hub_process.Browser.of(hub))

        stranger, ada, friend, root = [await browser() for _ in range(4)]
        assert (await sign_in(stranger, standing_in, "Stranger")).status_code == 403
        assert (await stranger.get("/hub/home")).url.path == "/hub/login"

        assert (await sign_in(ada, standing_in, "Ada")).status_code == 302
        assert (await ada.launch("ada"))[-1]["ready"]
        assert storage.requests[-1][2] == {"issuer": standing_in.url, "subject": "101", "admin": False, "groups": []}

        assert (await sign_in(friend, standing_in, "Friend")).status_code == 302
        assert (await friend.api("GET", "/users")).status_code == 403
        assert (await sign_in(root, standing_in, "Root")).status_code == 302
        assert (await root.api("GET", "/users")).status_code == 200

        # Ada's name now belongs to somebody else at GitHub: all that the first one left open ends, and the other, who
        # could make a token and read the first one's keys with it, is not let in.
        made = (await ada.api("POST", "/users/ada/tokens", json={"note": "mine"})).json()["token"]
        standing_in.numbers["Ada"] = 999
        other = await browser()
        refused = await sign_in(other, standing_in, "Ada")
        assert refused.status_code == 409
        assert "another person" in refused.text
        assert (await other.get("/hub/home")).url.path == "/hub/login"
        assert (await root.api("GET", "/users/ada")).json()["servers"] == {}
        assert (await ada.get("/hub/home")).url.path == "/hub/login"
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{hub.url}/hub/api/user", headers={"Authorization": f"token {made}"})
        assert answer.status_code == 403


def test_the_client_secret_must_be_the_platforms_own(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(errors.ConfigError, match=r"client_secret_file cannot be read: No such file or directory"):
        github.read_client_secret(file)
    file.write_text("")
    file.chmod(0o644)
    with pytest.raises(errors.ConfigError, match=r"is open to everyone; run: chmod 600"):
        github.read_client_secret(file)
    file.chmod(0o600)
    with pytest.raises(errors.ConfigError, match=r"is empty; expected the OAuth app's client secret"):
        github.read_client_secret(file)
    file.write_text("x\n")
    assert github.read_client_secret(file) == "x"


def test_a_person_is_githubs_number() -> None:
    state = {"github_user": {"id": 7}, "access_token": "gho_secret", "token_response": {"access_token": "gho_secret"}}
    binding = github.bind("https://github.com", {"name": "ada", "auth_state": state})
    assert (binding["issuer"], binding["subject"]) == ("https://github.com", "7")
    assert "gho_secret" not in str(binding)
    with pytest.raises(
        errors.UnavailableError, match=r"GitHub did not tell the number of the user 'ada'\. Try to sign in"
    ):
        github.bind("https://github.com", {"name": "ada", "auth_state": {"github_user": {}}})
