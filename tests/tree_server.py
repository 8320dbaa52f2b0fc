"""The tree in a real Jupyter server of the test's own event loop, over a store that the test names."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from jupyter_server import serverapp
from traitlets import config

from habari.core import model
from habari.server import buckets, tree


def view(name: str, access: model.Access = model.Access.WRITE, prefixes: Sequence[str] = ()) -> model.BucketView:
    return model.BucketView(name=name, kind=model.BucketKind.SHARED, access=access, prefixes=list(prefixes))


def store(url: str, key: model.AccessKey) -> buckets.Store:
    return buckets.Store(url, "us-east-1", key)


@dataclasses.dataclass
class Source:
    """A list of buckets that a test changes."""

    found: list[buckets.Bucket]
    fails: Exception | None = None
    asked: int = 0

    async def buckets(self) -> list[buckets.Bucket]:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return list(self.found)


def make_tree(home: Path, found: Sequence[buckets.Bucket], **settings: Any) -> tree.Tree:
    """Make a tree without a server; close it in the same event loop."""
    source = Source(list(found))
    made = tree.Tree(
        root_dir=str(home),
        bucket_source_factory=lambda: source,
        checkpoints_dir=str(home.parent / f"{home.name}-checkpoints"),
        **settings,
    )
    made.test_source = source
    made.notary.db_file = str(home.parent / f"{home.name}-signatures.db")
    made.notary.secret = home.name.encode()
    return made


@dataclasses.dataclass
class Server:
    """A running server and a client of it."""

    app: serverapp.ServerApp
    url: str
    http: httpx.AsyncClient

    @property
    def tree(self) -> tree.Tree:
        return self.app.contents_manager

    async def contents(self, method: str, path: str, body: Any = None, **params: Any) -> httpx.Response:
        return await self.http.request(
            method,
            f"{self.url}api/contents/{quote(path)}",
            params=params,
            content=None if body is None else json.dumps(body),
        )

    async def file(self, path: str, method: str = "GET", **kwargs: Any) -> httpx.Response:
        return await self.http.request(method, f"{self.url}files/{quote(path)}", **kwargs)


@contextlib.asynccontextmanager
async def serve(home: Path, found: Sequence[buckets.Bucket], **settings: Any) -> AsyncIterator[Server]:
    """Run a server."""
    source = Source(list(found))
    token = secrets.token_hex(8)
    runtime = home.parent / f"{home.name}-runtime"
    settings = {
        "bucket_source_factory": lambda: source,
        "checkpoints_dir": str(home.parent / f"{home.name}-checkpoints"),
    } | settings
    options = {
        "ServerApp": {
            "contents_manager_class": "habari.server.tree.Tree",
            "root_dir": str(home),
            "open_browser": False,
            "allow_root": True,
            "port": 0,
            "ip": "127.0.0.1",
            "log_level": "CRITICAL",
        },
        "IdentityProvider": {"token": token},
        "Tree": settings,
        "FileContentsManager": {"delete_to_trash": False, "always_delete_dir": True},
        "NotebookNotary": {"db_file": str(home.parent / f"{home.name}-signatures.db"), "secret": home.name.encode()},
    }
    os.environ["JUPYTER_RUNTIME_DIR"] = str(runtime)
    app = serverapp.ServerApp(config=config.Config(options))
    app.init_signal = lambda: None
    app.initialize(argv=[], find_extensions=False)
    app.contents_manager.test_source = source
    await asyncio.sleep(0)  # the server binds in a callback
    url = f"http://127.0.0.1:{app.port}/"
    try:
        async with httpx.AsyncClient(headers={"Authorization": f"token {token}"}, timeout=60) as client:
            yield Server(app, url, client)
    finally:
        await app.contents_manager.close()
        await app._cleanup()
        serverapp.ServerApp.clear_instance()
        os.environ.pop("JUPYTER_RUNTIME_DIR")
