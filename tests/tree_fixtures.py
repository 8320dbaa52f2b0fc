"""Fixtures of the tree's tests: places in which one suite runs, and servers."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
import strict_s3
import tree_server

from habari.server import buckets, tree

_numbers = itertools.count(1)


@dataclasses.dataclass
class Corner:
    """A folder of a tree in which the suite works; `path("a/b")` is a path in it."""

    tree: tree.Tree
    root: str
    kind: str

    def path(self, relative: str = "") -> str:
        return "/".join(each for each in (self.root, relative) if each)

    async def write(self, relative: str, text: str = "x") -> dict[str, Any]:
        return await self.tree.save({"type": "file", "format": "text", "content": text}, self.path(relative))

    async def text(self, relative: str) -> str:
        return (await self.tree.get(self.path(relative), type="file"))["content"]

    async def names(self, relative: str = "") -> list[str]:
        model = await self.tree.get(self.path(relative), type="directory")
        return sorted(each["name"] for each in model["content"])


@pytest.fixture
async def strict() -> AsyncIterator[strict_s3.StrictS3]:
    """An S3 in memory with the buckets `one` and `two`."""
    store = strict_s3.StrictS3()
    store.buckets |= {"one": {}, "two": {}}
    await store.start()
    yield store
    await store.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and Jupyter's folders out of anybody's way."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def strict_bucket(store: strict_s3.StrictS3, name: str = "one", **view: Any) -> buckets.Bucket:
    """Return a bucket of the store in memory."""
    key = tree_server.model.AccessKey("AK", "secret")
    return buckets.Bucket(tree_server.view(name, **view), tree_server.store(store.url, key))


def admin(url: str, key: Any) -> Any:
    """Return boto3's client of a real store."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        region_name="us-east-1",
        config=botocore.config.Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@pytest.fixture
def real_bucket(request: pytest.FixtureRequest) -> buckets.Bucket:
    """A new bucket of the embedded store."""
    running = request.getfixturevalue("object_store")
    name = f"tree-{os.getpid()}-{next(_numbers)}"
    admin(running.url, running.key).create_bucket(Bucket=name)
    return buckets.Bucket(tree_server.view(name), tree_server.store(running.url, running.key))


@pytest.fixture
def real_if_wanted(request: pytest.FixtureRequest) -> buckets.Bucket | None:
    """A bucket of the embedded store where a corner needs one: only then is that store started."""
    wanted = request.node.callspec.params.get("corner") == "seaweedfs"
    return request.getfixturevalue("real_bucket") if wanted else None


@pytest.fixture
async def corner(
    request: pytest.FixtureRequest, real_if_wanted: buckets.Bucket | None, strict: strict_s3.StrictS3, home: Path
) -> AsyncIterator[Corner]:
    """A corner of the kind that the test's parameter names."""
    kind = request.param
    if real_if_wanted is not None:
        found = real_if_wanted
        root = f"buckets/{found.view.name}"
    else:
        found = strict_bucket(strict, prefixes=["granted/"] if kind == "prefix" else [])
        root = {"home": "", "folder": "deep/er", "strict": "buckets/one", "prefix": "buckets/one/granted"}[kind]
    made = tree_server.make_tree(home, [found])
    made.home.delete_to_trash = False
    made.home.always_delete_dir = True
    if kind == "folder":
        (home / "deep" / "er").mkdir(parents=True)
    yield Corner(made, root, kind)
    await made.close()
