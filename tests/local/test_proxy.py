"""Traefik with the hub's own routes: what it tells the hub about a client, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from habari.core import config
from habari.local import child, folder, forwarded, freeports, proxy

MARK = "made-up-mark"


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """Serve what was sent to it as headers."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({name.title(): value for name, value in request.headers.items()})

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.hub
@pytest.mark.parametrize("behind_proxy", [False, True])
async def test_the_hub_learns_the_client_and_users_servers_no_mark(tmp_path: Path, *, behind_proxy: bool) -> None:
    data = folder.Folder.prepare(tmp_path / "data")
    port, api_port = freeports.find(2)
    static = proxy.write_static(data, config.Listen(port=port), api_port=api_port, behind_proxy=behind_proxy)
    async with echo() as target:
        hub = forwarded.MarkingProxy(
            mark=MARK,
            should_start=False,
            traefik_api_url=f"http://127.0.0.1:{api_port}",
            traefik_api_username="hub",
            traefik_api_password="secret",
            traefik_entrypoint="http",
            dynamic_config_file=str(data.path / "run" / "proxy" / proxy.ROUTES_FILE),
        )
        argv = child.command([f"{sys.prefix}/bin/traefik", f"--configfile={static}"])
        traefik = await asyncio.create_subprocess_exec(*argv)
        try:
            await hub._start_external()
            await hub.add_route("/", target, {"hub": True})
            await hub.add_route("/user/ada/", target, {"user": "ada"})
            forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-Ip": "6.6.6.6", forwarded.HEADER: "a guess"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=forged) as client:
                at_hub = (await client.get("/hub/login")).json()
                at_server = (await client.get("/user/ada/lab")).json()
        finally:
            traefik.terminate()
            await traefik.wait()
    assert at_hub[forwarded.HEADER] == MARK
    assert "X-Real-Ip" not in at_hub
    assert MARK not in str(at_server)
    seen = forwarded.client(at_hub, MARK, behind_proxy=behind_proxy)
    assert seen == ("203.0.113.9" if behind_proxy else "127.0.0.1")
