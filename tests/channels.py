"""A person's kernels and terminals that stay open, for tests that say more than one thing to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import person

_MESSAGE = {"metadata": {}, "parent_header": {}, "channel": "shell"}


class Kernel:
    """A kernel that is being talked to; what it prints from the side is dropped.

    Args:
        socket: Its channels.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Keep the channels."""
        self._socket = socket

    async def run(self, code: str, timeout_s: float = 120.0) -> str:
        """Run code and return what it printed, errors included."""
        identifier = uuid.uuid4().hex
        header = {"msg_id": identifier, "msg_type": "execute_request", "session": "s", "version": "5.3"}
        header |= {"username": "", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        async with asyncio.timeout(timeout_s):
            await self._socket.send_json({**_MESSAGE, "header": header, "content": content})
            return await person._collect(self._socket, identifier)

    async def ask(self, code: str, timeout_s: float = 120.0) -> Any:
        """Run code that prints one JSON document last, and return it."""
        printed = await self.run(code, timeout_s)
        try:
            return json.loads(printed.splitlines()[-1])
        except (IndexError, ValueError):
            raise AssertionError(printed) from None


@contextlib.asynccontextmanager
async def kernel(owner: person.Person, notebook: str | None = None) -> AsyncIterator[Kernel]:
    """Yield a kernel of a person's; that of a notebook, if one is named by its path in the tree."""
    if notebook:
        body = {"path": notebook, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        status, made = await owner.request("POST", "api/sessions", json=body)
        assert status == 201, made
        made = made["kernel"]
    else:
        status, made = await owner.request("POST", "api/kernels", json={"name": "python3"})
        assert status == 201, made
    try:
        address = f"{owner.server}/api/kernels/{made['id']}/channels"
        async with owner._session.ws_connect(address, max_msg_size=0) as socket:
            yield Kernel(socket)
    finally:
        await owner.request("DELETE", f"api/kernels/{made['id']}")


async def run_in_terminal(owner: person.Person, command: str, timeout_s: float = 60.0) -> str:
    """Return what a command prints in a new terminal of a person's."""
    status, made = await owner.request("POST", "api/terminals", json={})
    assert status == 200, made
    name, printed = made["name"], ""
    # Written in two parts, so that the echo of the command is not taken for its end.
    line = f"stty -echo; printf 'BE''GIN\\n'; {command}; printf 'EN''D\\n'\r"
    try:
        address = f"{owner.server}/terminals/websocket/{name}"
        async with asyncio.timeout(timeout_s), owner._session.ws_connect(address, max_msg_size=0) as socket:
            await socket.send_json(["set_size", 50, 4000])
            await socket.send_json(["stdin", line])
            async for raw in socket:
                kind, *rest = json.loads(raw.data)
                if kind == "stdout":
                    printed += rest[0]
                if "END\r\n" in printed:
                    break
    finally:
        await owner.request("DELETE", f"api/terminals/{name}")
    return printed.split("BEGIN\r\n", 1)[1].split("END\r\n", 1)[0].replace("\r\n", "\n")
