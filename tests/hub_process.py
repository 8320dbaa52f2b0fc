"""A real JupyterHub in a process of its own, with Habari's configuration, for tests; and a browser's session at it.

The proxy is left out: tests talk to the hub itself, and to servers at their own ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import cookies
from pathlib import Path
from typing import Any

import httpx

CONFIG = """
import os
from jupyterhub.proxy import Proxy
from habari import hub
from habari.local import signin, spawner

class NoProxy(Proxy):
    should_start = False
    routes = {}
    async def add_route(self, routespec, target, data):
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}
    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)
    async def get_all_routes(self):
        return self.routes

c = get_config()
if os.environ["TEST_SPAWNER"] == "local":
    spawner.configure(c)
else:
    c.JupyterHub.spawner_class = os.environ["TEST_SPAWNER"]
hub.configure(c)
signin.configure(c)
c.JupyterHub.proxy_class = NoProxy
c.AccountAuthenticator.proxy_mark = "made-up-mark"
c.JupyterHub.bind_url = os.environ["HABARI_PUBLIC_URL"]
c.JupyterHub.hub_bind_url = os.environ["TEST_HUB_URL"]
c.JupyterHub.db_url = "sqlite:///" + os.environ["HABARI_DIR"] + "/hub/jupyterhub.sqlite"
c.JupyterHub.cleanup_servers = False
c.Spawner.args = os.environ.get("TEST_ARGS", "").split()
"""


def free_port() -> int:
    """Return a loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Hub:
    """A hub that can be started again on the same data."""

    def __init__(self, data: Path, storage_url: str, *, spawner: str = "local", **extra: str) -> None:
        """Make the data folder with its secrets."""
        self.data = data
        self.passwords: dict[str, str] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data / "logs" / "hub.log"
        self.secrets = data / "secrets" / "hub"
        for folder in (self.secrets, data / "hub", data / "homes", data / "logs", data / "run"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.chmod(0o700)
        for name in ("launch_token", "service_token", "cookie_secret", "crypt_key"):
            (self.secrets / name).write_text(secrets.token_hex(32))
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "HABARI_DIR": str(data),
            "HABARI_SECRETS": str(self.secrets),
            "HABARI_STORAGE_URL": storage_url,
            "HABARI_PUBLIC_URL": f"http://localhost:{self.port}",
            "HABARI_NOTEBOOK_ENVIRONMENT": sys.prefix,
            "TEST_HUB_URL": self.url,
            "TEST_SPAWNER": spawner,
            "PYTHONPATH": str(Path(__file__).parent),
            **extra,
        }
        self.config = data / "jupyterhub_config.py"
        self.config.write_text(CONFIG)

    def start(self) -> None:
        """Start the hub and return when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(self.config)],
                env=self.env,
                cwd=self.data,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "the hub answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/hub/health").status_code == 200
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the hub alone."""
        self.process.send_signal(number)
        self.process.wait(30)

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        """Run the hub for the time of a block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def token(self, name: str) -> str:
        """Return one of the hub's secrets."""
        return (self.secrets / name).read_text()


class Browser:
    """One person's session at the hub's pages."""

    def __init__(self, hub: Hub, client: httpx.AsyncClient) -> None:
        """Keep both, and the cookies here: the client would refuse those of the domain `localhost`."""
        self.hub = hub
        self.client = client
        self.cookies: dict[str, str] = {}
        client.event_hooks = {"request": [self._send_cookies], "response": [self._keep_cookies]}

    async def _send_cookies(self, request: httpx.Request) -> None:
        request.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    async def _keep_cookies(self, response: httpx.Response) -> None:
        for line in response.headers.get_list("set-cookie"):
            for name, morsel in cookies.SimpleCookie(line).items():
                self.cookies[name] = morsel.value
                if not morsel.value:
                    del self.cookies[name]

    @staticmethod
    @contextlib.asynccontextmanager
    async def of(hub: Hub, address: str = "") -> AsyncIterator[Browser]:
        """Open a session, as if from another address through the proxy."""
        headers = {"Host": f"localhost:{hub.port}", "Sec-Fetch-Mode": "navigate"}
        if address:
            headers |= {"X-Forwarded-For": address, "X-Habari-Forwarded": "made-up-mark"}
        async with httpx.AsyncClient(base_url=hub.url, headers=headers, timeout=60) as client:
            yield Browser(hub, client)

    async def get(self, path: str) -> httpx.Response:
        """Get a page, following redirects at the hub."""
        answer = await self.client.get(path)
        while answer.is_redirect:
            target = answer.headers["location"].replace(f"http://localhost:{self.hub.port}", self.hub.url)
            if not target.startswith((self.hub.url, "/hub")):
                return answer
            answer = await self.client.get(target)
        return answer

    async def sign_in(self, name: str, password: str) -> httpx.Response:
        """Send the sign-in form and return the answer."""
        return await self.post("/hub/login", page="/hub/login", username=name, password=password)

    async def post(self, path: str, *, page: str, **fields: str) -> httpx.Response:
        """Send the form of a page."""
        text = (await self.client.get(page)).text
        token = re.search(r'name="_xsrf" value="([^"]*)"', text)
        assert token, text
        return await self.client.post(path, data={"_xsrf": token[1], **fields})

    async def api(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Call the hub's REST API with the session's cookie."""
        headers = {"X-XSRFToken": self.cookies.get("_xsrf", ""), "Sec-Fetch-Mode": "cors"}
        return await self.client.request(method, f"/hub/api{path}", headers=headers, **kwargs)

    async def launch(self, name: str) -> list[dict[str, Any]]:
        """Ask for the server and return all progress events to the end."""
        answer = await self.api("POST", f"/users/{name}/server", json={})
        assert answer.status_code in (201, 202, 500, 503, 403, 409), answer.text
        return await self.progress(name)

    async def progress(self, name: str) -> list[dict[str, Any]]:
        """Return the progress events of a launch, those already past included."""
        path = f"/hub/api/users/{name}/server/progress"
        async with self.client.stream("GET", path, params={"_xsrf": self.cookies.get("_xsrf", "")}) as stream:
            assert stream.status_code == 200, await stream.aread()
            return [json.loads(line[6:]) async for line in stream.aiter_lines() if line.startswith("data: ")]
