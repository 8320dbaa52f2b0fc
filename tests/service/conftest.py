"""Fixtures of the storage service: its parts over a store that may fail, and a real JupyterHub."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import fernet

from habari.core import config, errors, model
from habari.service import app, database, declaration, ensure, keeper, sealing, settings, tables, views, wiring
from habari.storage import memory

LAUNCH_TOKEN = "launch-token-of-these-tests"


class Faulty:
    """A backend in front of another, whose calls are counted, and fail where a test says so.

    `fail_at` is the number of the call that fails, `after` whether it takes effect first, `away` whether all fail.
    With `stop`, the call stops the service instead, and never returns.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: list[str] = []
        self.fail_at = 0
        self.after = False
        self.away = False
        self.error: Exception = errors.UnavailableError("The object store does not answer.", delay_s=0.01)
        self.stop: Callable[[], None] | None = None
        self.hold: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            failing = self.away or len(self.calls) == self.fail_at
            if self.hold is not None:
                await self.hold.wait()
            if failing and self.stop is not None:
                self.stop()
                await asyncio.Event().wait()
            if failing and not self.after:
                raise self.error
            result = await method(*args, **kwargs)
            if failing:
                raise self.error
            return result

        return call


@dataclasses.dataclass
class Service:
    """The parts of the service without its web application, and short ways to use them."""

    db: database.Database
    store: memory.Memory
    faulty: Faulty
    keeper: keeper.Keeper
    ensurer: ensure.Ensurer
    views: views.Views

    async def ensure(self, name: str = "ada", **person: Any) -> list[model.Step]:
        """Ensure a user, by default one whose subject is the name, and return the steps."""
        request = model.EnsureRequest(**{"issuer": "local", "subject": name, **person})
        return [step async for step in await self.ensurer.begin(name, request, origin="127.0.0.1")]

    async def client(self, name: str) -> memory.Client:
        """Return an S3 client with the key that the service would hand to a user."""
        keys = (await self.views.me(name)).keys
        return self.store.client(model.AccessKey(keys.access_key_id, keys.secret_access_key))

    async def audited(self) -> list[str]:
        """Return the audit trail as text."""
        return await self.db.read(
            lambda session: [f"{each.who}: {each.object}: {each.what}" for each in session.query(tables.Audit)]
        )


Open = Callable[..., contextlib.AbstractAsyncContextManager[Service]]


@pytest.fixture
def encryption_key() -> str:
    return fernet.Fernet.generate_key().decode()


@pytest.fixture
def sealer(encryption_key: str) -> sealing.Sealer:
    return sealing.Sealer([encryption_key])


def settings_for(encryption_keys: tuple[str, ...], hub_api_url: str, token: str) -> settings.Settings:
    """Return settings of which only the hub and the encryption keys matter."""
    return settings.Settings(
        tenant=config.parse(""),
        secrets=settings.Secrets(model.AccessKey("", ""), encryption_keys, LAUNCH_TOKEN, token),
        database_url="",
        store_url="",
        host="",
        port=0,
        hub_api_url=hub_api_url,
    )


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated database file, which is faster to copy than to make."""
    path = tmp_path_factory.mktemp("database") / "storage.sqlite"
    made = database.Database(f"sqlite:///{path}")
    made.migrate()
    made.close()
    return path


@pytest.fixture
def opened(tmp_path: Path, empty_database: Path, sealer: sealing.Sealer) -> Open:
    """Return a function that opens the service; twice over the same folder and store is a restart."""

    @contextlib.asynccontextmanager
    async def open_service(
        *, store: memory.Memory | None = None, declared: str = "", folder: str = "", **options: Any
    ) -> AsyncIterator[Service]:
        tenant = config.parse(declared)
        prefix = tenant.buckets.prefix
        file = tmp_path / f"storage{folder}.sqlite"
        if not file.exists():
            shutil.copy(empty_database, file)
        db = database.Database(f"sqlite:///{file}")
        store = memory.Memory() if store is None else store
        faulty = Faulty(store)
        try:
            await db.write(declaration.sync, tenant.buckets, now=keeper.now())
            keep = keeper.Keeper(db, faulty, sealer, prefix=prefix)
            async with asyncio.TaskGroup() as tasks:
                ensurer = ensure.Ensurer(db, keep, prefix=prefix, tasks=tasks, **options)
                seen = views.Views(db, store.endpoint, sealer, prefix=prefix)
                yield Service(db, store, faulty, keep, ensurer, seen)
                ensurer.cancel()
        finally:
            db.close()

    return open_service


@dataclasses.dataclass
class Api:
    """The web application over running parts, and an HTTP client with the paths of the API."""

    parts: wiring.Parts
    faulty: Faulty
    http: httpx.AsyncClient

    async def ensure(self, name: str = "ada", **person: Any) -> httpx.Response:
        body = {"issuer": "local", "subject": name, **person}
        return await self.http.post(
            f"users/{name}/ensure", json=body, headers={"Authorization": f"Bearer {LAUNCH_TOKEN}"}
        )


@pytest.fixture
def serving(tmp_path: Path, encryption_key: str) -> Callable[..., contextlib.AbstractAsyncContextManager[Api]]:
    """Return a function that runs the whole service but its socket, with a hub at the address it is given."""

    @contextlib.asynccontextmanager
    async def serve(
        hub_api_url: str = "http://127.0.0.1:9/hub/api",
        *,
        token: str = "",
        encryption_keys: tuple[str, ...] = (encryption_key,),
        backend: Any = None,
    ) -> AsyncIterator[Api]:
        db = database.Database(f"sqlite:///{tmp_path}/storage.sqlite")
        db.migrate()
        faulty = backend or Faulty(memory.Memory())
        try:
            async with wiring.running(settings_for(encryption_keys, hub_api_url, token), db, faulty) as parts:
                transport = httpx.ASGITransport(app.make_app(parts, LAUNCH_TOKEN), raise_app_exceptions=False)
                url = "http://test/services/storage/api/v1/"
                async with httpx.AsyncClient(transport=transport, base_url=url) as http:
                    yield Api(parts, faulty, http)
        finally:
            db.close()

    return serve


@dataclasses.dataclass(frozen=True)
class Hub:
    """A running JupyterHub, and its administrator's API."""

    api_url: str
    admin_token: str
    pid: int

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.post(self.api_url + path, json=body or {}, headers=self._headers)
        assert answer.is_success, answer.text
        result: dict[str, Any] = answer.json() if answer.content else {}
        return result

    def make_user(self, name: str) -> None:
        self.post(f"/users/{name}")

    def make_token(self, name: str, *scopes: str) -> tuple[str, str]:
        """Return a new token and its id."""
        made = self.post(f"/users/{name}/tokens", {"scopes": list(scopes)})
        return made["token"], made["id"]

    def revoke(self, name: str, token_id: str) -> None:
        httpx.delete(f"{self.api_url}/users/{name}/tokens/{token_id}", headers=self._headers).raise_for_status()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.admin_token}"}


_HUB_CONFIG = """
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {}
    async def get_route(self, routespec): return None

c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.hub_port = PORT
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.allow_all = True
c.JupyterHub.custom_scopes = {
    "custom:habari:keys:read": {"description": "read keys"},
    "custom:habari:buckets:read": {"description": "read buckets"},
}
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", "custom:habari:keys:read!user", "custom:habari:buckets:read!user"]},
    {"name": "tests", "scopes": ["admin:users", "tokens"], "services": ["tests"]},
]
c.JupyterHub.services = [{"name": "tests", "api_token": "TOKEN"}]
"""


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Yield a real JupyterHub whose users have Habari's two scopes for themselves."""
    folder = tmp_path_factory.mktemp("hub")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = folder / "jupyterhub_config.py"
    settings.write_text(_HUB_CONFIG.replace("PORT", str(port)).replace("TOKEN", token))
    url = f"http://127.0.0.1:{port}/hub/api"
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(settings)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )
    try:
        wait_for_http(url, lambda: process.poll() is None, folder / "hub.log")
        yield Hub(url, token, process.pid)
    finally:
        process.terminate()
        process.wait(20)


def wait_for_http(url: str, alive: Callable[[], bool], log: Path) -> None:
    """Return once an address answers 200; fail if its process ends, or 60 seconds pass."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.05)
    pytest.fail(f"{url} does not answer; its log:\n{log.read_text()[-2000:]}")


@pytest.fixture
def wait_for() -> Callable[[str, Callable[[], bool], Path], None]:
    """Return a function that waits for an address to answer 200, while a process lives that writes a log."""
    return wait_for_http


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that waits until a condition holds, at most 20 seconds."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
