"""The programs of the platform on one machine: what each runs, with which settings, and when it does its work."""

from __future__ import annotations

import asyncio
import contextlib
import http
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp

from habari.core import config
from habari.local import parts
from habari.local import plan as plans
from habari.local import proxy as traefik

_POLL_S = 0.05
_CULL_EVERY_S = 300
"""Longest time between two looks of the culler, in seconds: its own default."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Variables of the operator's environment that parts inherit; nothing else of it reaches them."""


def object_store(plan: plans.Plan) -> parts.Part:
    """Return the embedded object store."""
    store = plan.store
    return parts.Part(
        "object store",
        store.argv,
        store.environment(),
        _log(plan, "object-store"),
        store.ready,
        cwd=store.cwd,
        before=store.clean,
    )


def proxy(plan: plans.Plan, session: aiohttp.ClientSession) -> parts.Part:
    """Return the proxy; it is ready when it listens and has taken up the routes that are there."""
    listen = plan.tenant.listen
    static = traefik.write_static(
        plan.data, listen, api_port=plan.ports["proxy-api"], behind_proxy=plan.options.behind_proxy
    )

    async def ready() -> None:
        await _listens(listen)
        if traefik.has_routes(plan.data):
            await _answers(session, plan, is_fine=lambda status: status != http.HTTPStatus.NOT_FOUND)

    argv = [f"{sys.prefix}/bin/traefik", f"--configfile={static}"]
    return _part(plan, "proxy", argv, {}, ready)


def storage_service(plan: plans.Plan, session: aiohttp.ClientSession) -> parts.Part:
    """Return the storage service; it is ready when it serves, whether or not store and hub are there."""
    data = plan.data.path
    settings = {
        "HABARI_SECRETS": str(data / "secrets" / "storage"),
        "HABARI_DATABASE_URL": f"sqlite:///{data / 'storage' / 'storage.sqlite'}",
        "HABARI_STORE_URL": plan.store.url,
        "HABARI_LISTEN": f"127.0.0.1:{plan.ports['storage']}",
        "JUPYTERHUB_API_URL": f"{plan.hub_url}/hub/api",
    }
    argv = [sys.executable, "-m", "habari.service"]
    health = f"{plan.storage_url}api/v1/health"
    return _part(plan, "storage service", argv, settings, lambda: _answers(session, plan, url=health))


def hub(plan: plans.Plan, session: aiohttp.ClientSession) -> parts.Part:
    """Return the hub; it is ready when it answers through the proxy."""
    settings = {
        "HABARI_SECRETS": str(plan.data.path / "secrets" / "hub"),
        "HABARI_STORAGE_URL": plan.storage_url,
        "HABARI_HUB_PORT": str(plan.ports["hub"]),
        "HABARI_PROXY_API_PORT": str(plan.ports["proxy-api"]),
        "HABARI_BIND_URL": plan.bind_url,
        "HABARI_PUBLIC_URL": plan.url,
        "HABARI_NOTEBOOK_ENVIRONMENT": str(plan.options.notebook_environment),
        "HABARI_ISOLATION": "1" if plan.options.isolation else "0",
        "HABARI_BEHIND_PROXY": "1" if plan.options.behind_proxy else "0",
        "HABARI_PORTS": ",".join(map(str, plan.all_ports)),
    }
    file = Path(__file__).with_name("jupyterhub_config.py")
    argv = [sys.executable, "-m", "jupyterhub", "-f", str(file)]
    return _part(plan, "hub", argv, settings, lambda: _answers(session, plan))


def idle_culler(plan: plans.Plan) -> parts.Part:
    """Return what stops servers that nobody uses."""

    async def ready() -> None:
        """Return at once: it has nothing to answer."""

    limit_s = plan.tenant.servers.idle_timeout_s
    token = plan.data.secret_file("hub", "culler_token").read_text().strip()
    flags = [
        f"--url={plan.hub_url}/hub/api",
        f"--timeout={limit_s}",
        f"--cull-every={max(1, min(_CULL_EVERY_S, limit_s // 2))}",
    ]
    argv = [sys.executable, "-m", "jupyterhub_idle_culler", *flags]
    return _part(plan, "idle culler", argv, {"JUPYTERHUB_API_TOKEN": token}, ready)


def _part(
    plan: plans.Plan, name: str, argv: list[str], settings: Mapping[str, str], ready: Callable[[], Awaitable[None]]
) -> parts.Part:
    base = {each: os.environ[each] for each in _KEPT if each in os.environ}
    environment = base | {
        "PATH": f"{sys.prefix}/bin{os.pathsep}{base.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "HABARI_CONFIG": str(plan.data.path / "run" / "habari.yaml"),
        "HABARI_DIR": str(plan.data.path),
    }
    log = _log(plan, name.replace(" ", "-"))
    return parts.Part(name, argv, environment | dict(settings), log, ready, cwd=plan.data.path)


def _log(plan: plans.Plan, name: str) -> Path:
    return plan.data.path / "logs" / f"{name}.log"


async def _answers(
    session: aiohttp.ClientSession,
    plan: plans.Plan,
    *,
    url: str = "",
    is_fine: Callable[[int], bool] = lambda status: status == http.HTTPStatus.OK,
) -> None:
    """Return when a URL answers as wished; by default, when the hub does so through the proxy."""
    # The proxy routes by the name that people type.
    headers = {} if url else {"Host": plan.url.split("//", 1)[1]}
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            # The certificate is checked by browsers against the name people type, which this address is not.
            async with session.get(url or f"{plan.bind_url}/hub/health", headers=headers, ssl=False) as response:
                if is_fine(response.status):
                    return
        await asyncio.sleep(_POLL_S)


async def _listens(listen: config.Listen) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(listen.host, listen.port)
            writer.close()
            return
        await asyncio.sleep(_POLL_S)
