"""A person at the platform over plain HTTP, for tests and benchmarks: signs in, launches, browses, runs code."""

from __future__ import annotations

import asyncio
import html
import json
import re
import socket
import ssl
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp import abc


class _Loopback(abc.AbstractResolver):
    """Browsers take every name below `localhost` as this machine; Python asks the system, which often does not."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        assert host.endswith("localhost")
        return [
            {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0},
        ]

    async def close(self) -> None:
        pass


class Person:
    """One browser session, without a browser.

    Args:
        url: Address of the platform.
        name: Name of the account.
        password: Its password.
        authority: File of the certificate that the platform's is checked against.
    """

    def __init__(self, url: str, name: str, password: str, *, authority: Path | None = None) -> None:
        """Keep the arguments."""
        self.authority = authority
        self.url = url
        self.name = name
        self.password = password
        self.server = ""
        self.page = ""
        self.steps: list[str] = []

    async def __aenter__(self) -> Person:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Loopback(), ssl=ssl.create_default_context(cafile=self.authority) if self.authority else True
            ),
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            timeout=aiohttp.ClientTimeout(total=120),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def sign_in(self) -> int:
        """Sign in with the password and return the status of the page that follows."""
        async with self._session.get(f"{self.url}/hub/login") as page:
            token = self._xsrf(await page.text())
        form = {"_xsrf": token, "username": self.name, "password": self.password}
        async with self._session.post(f"{self.url}/hub/login", data=form) as answer:
            self.page = html.unescape(await answer.text())
            return answer.status

    def cookies(self) -> list[tuple[str, bool]]:
        """Return the name of each cookie that the browser keeps, and whether it goes over TLS only."""
        return [(cookie.key, bool(cookie["secure"])) for cookie in self._session.cookie_jar]

    async def change_password(self, new: str) -> None:
        """Change the password on the account page."""
        async with self._session.get(f"{self.url}/hub/account") as page:
            token = self._xsrf(await page.text())
        form = {"_xsrf": token, "current": self.password, "new": new, "again": new}
        async with self._session.post(f"{self.url}/hub/account", data=form) as answer:
            assert answer.status == 200, await answer.text()
        self.password = new

    async def launch(self) -> None:
        """Press launch, follow the steps, and open the server."""
        async with self._session.get(f"{self.url}/hub/spawn/{quote(self.name)}") as page:
            text = await page.text()
            assert page.status == 200, text
            final = str(page.url)
        if "/spawn-pending/" in final:
            await self._follow(self._xsrf(text))
        async with self._session.get(f"{self.url}/hub/user/{quote(self.name)}/lab") as answer:
            assert answer.status == 200, await answer.text()
            self.server = str(answer.url).split("/lab", 1)[0]

    async def stop_server(self) -> None:
        """Stop the server and wait until it is gone."""
        async with self._session.get(f"{self.url}/hub/home") as page:
            token = self._xsrf(await page.text())
        target = f"{self.url}/hub/api/users/{quote(self.name)}/server"
        headers = {"X-XSRFToken": token, "Referer": f"{self.url}/hub/home"}
        async with self._session.delete(target, headers=headers) as answer:
            assert answer.status in (202, 204), await answer.text()
        deadline = time.monotonic() + 30
        while True:
            async with self._session.get(f"{self.url}/hub/api/users/{quote(self.name)}", headers=headers) as answer:
                if not (await answer.json())["servers"]:
                    return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request to the person's own server; return the status and the JSON or bytes of the answer."""
        headers = {"X-XSRFToken": self._server_token(), **options.pop("headers", {})}
        async with self._session.request(method, f"{self.server}/{path}", headers=headers, **options) as answer:
            body = await answer.read()
            if answer.content_type == "application/json":
                return answer.status, json.loads(body) if body else None
            return answer.status, body

    async def contents(self, path: str = "", **options: Any) -> Any:
        """Return the model of a path in the tree."""
        status, model = await self.request("GET", f"api/contents/{quote(path)}", **options)
        assert status == 200, model
        return model

    async def names(self, path: str = "") -> list[str]:
        """Return the names in a folder of the tree, sorted."""
        return sorted(each["name"] for each in (await self.contents(path))["content"])

    async def run(self, code: str, timeout_s: float = 90.0) -> str:
        """Run code in a kernel of its own and return what it printed, errors included."""
        status, kernel = await self.request("POST", "api/kernels", json={"name": "python3"})
        assert status == 201, kernel
        address = f"{self.server}/api/kernels/{kernel['id']}/channels"
        try:
            async with asyncio.timeout(timeout_s), self._session.ws_connect(address, max_msg_size=0) as socket:
                identifier = uuid.uuid4().hex
                content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
                header = {"msg_id": identifier, "msg_type": "execute_request", "session": "s", "version": "5.3"}
                header |= {"username": self.name, "date": "2026-01-01T00:00:00Z"}
                message = {
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                    "channel": "shell",
                }
                await socket.send_json(message)
                return await _collect(socket, identifier)
        finally:
            await self.request("DELETE", f"api/kernels/{kernel['id']}")

    async def _follow(self, token: str) -> None:
        target = f"{self.url}/hub/api/users/{quote(self.name)}/server/progress"
        headers = {"Referer": f"{self.url}/hub/spawn-pending/{quote(self.name)}", "X-XSRFToken": token}
        async with self._session.get(target, headers=headers) as events:
            assert events.status == 200, await events.text()
            async for line in events.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    self.steps.append(event["message"])
                    assert not event.get("failed"), event
                    if event.get("ready"):
                        return

    def _server_token(self) -> str:
        cookies = self._session.cookie_jar.filter_cookies(aiohttp.client.URL(f"{self.server}/"))
        return cookies["_xsrf"].value if "_xsrf" in cookies else ""

    @staticmethod
    def _xsrf(page: str) -> str:
        found = re.search(r'name="_xsrf"[^>]*value="([^"]+)"', page) or re.search(r'xsrf_token:\s*"([^"]+)"', page)
        assert found, page[:2000]
        return found[1]


async def _collect(socket: aiohttp.ClientWebSocketResponse, identifier: str) -> str:
    printed: list[str] = []
    async for raw in socket:
        message = json.loads(raw.data) if raw.type is aiohttp.WSMsgType.TEXT else {}
        if message.get("parent_header", {}).get("msg_id") != identifier:
            continue
        content, kind = message["content"], message["msg_type"]
        if kind == "stream":
            printed.append(content["text"])
        elif kind in ("execute_result", "display_data"):
            printed.append(content["data"].get("text/plain", ""))
        elif kind == "error":
            printed.append("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            break
    return "".join(printed)


def host(url: str) -> str:
    """Return the host and port of an address."""
    return urlsplit(url).netloc
