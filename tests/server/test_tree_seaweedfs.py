"""What only the embedded store shows: its own ideas of keys and folders, real conditions, real refusals."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tree_fixtures
import tree_server
from tornado import web
from tree_fixtures import home, real_bucket

from habari.core import errors, model
from habari.server import buckets, moves, tree

__all__ = ["home", "real_bucket"]

pytestmark = pytest.mark.s3


@pytest.fixture
async def made(real_bucket: buckets.Bucket, home: Path) -> AsyncIterator[tree.Tree]:
    result = tree_server.make_tree(home, [real_bucket])
    result.store = tree_fixtures.admin(real_bucket.store.endpoint_url, real_bucket.store.keys)
    result.name = real_bucket.view.name
    yield result
    await result.close()


def file(text: str = "x") -> dict[str, Any]:
    return {"type": "file", "format": "text", "content": text}


async def refused(act: Any, status: int) -> str:
    with pytest.raises(web.HTTPError) as caught:
        await act
    assert caught.value.status_code == status, caught.value
    return str(caught.value.log_message)


@pytest.mark.parametrize("name", ["back\\slash", "a/∅/b", "∅/a", "a/∅"])
async def test_keys_that_this_store_would_write_elsewhere_are_refused(made: tree.Tree, name: str) -> None:
    await made.save(file("old"), f"buckets/{made.name}/a/b")
    path = f"buckets/{made.name}/{name}"
    for act in (made.save(file(), path), made.save(file() | {"chunk": 1}, path)):
        assert "its store would take it for another one" in await refused(act, 400)
    with pytest.raises(web.HTTPError) as caught:
        await made.copy(f"buckets/{made.name}/a/b", path)
    assert caught.value.status_code in {400, 409}  # 409: to this store the name is that of a/b
    with contextlib.suppress(web.HTTPError):
        await made.delete(path)
    assert (await made.get(f"buckets/{made.name}/a/b", type="file"))["content"] == "old"


@pytest.mark.parametrize("name", ["∅./x", "∅../x", "y" * 256])
async def test_keys_that_this_store_refuses_say_so(made: tree.Tree, name: str) -> None:
    assert await refused(made.save(file(), f"buckets/{made.name}/{name}"), 400)


async def test_an_object_and_a_folder_of_one_name(made: tree.Tree) -> None:
    for key in ("a", "a/b"):
        made.store.put_object(Bucket=made.name, Key=key, Body=key.encode())
    found = (await made.get(f"buckets/{made.name}"))["content"]
    assert sorted((each["name"], each["type"]) for each in found) == [("a", "file"), ("a▸", "directory")]
    await made.delete(f"buckets/{made.name}/a")
    assert [each["name"] for each in (await made.get(f"buckets/{made.name}"))["content"]] == ["a"]
    assert (await made.get(f"buckets/{made.name}/a/b", type="file"))["content"] == "a/b"


async def test_a_race_has_one_winner(made: tree.Tree, real_bucket: buckets.Bucket, tmp_path: Path) -> None:
    path = f"buckets/{made.name}/a.txt"
    await made.save(file("first"), path)
    trees = []
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        trees.append(tree_server.make_tree(tmp_path / str(number), [real_bucket]))
        await trees[-1].get(path, type="file")
    saves = (each.save(file(f"from {number}"), path) for number, each in enumerate(trees))
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1
    winner = next(number for number, result in enumerate(results) if isinstance(result, dict))
    assert made.store.get_object(Bucket=made.name, Key="a.txt")["Body"].read() == f"from {winner}".encode()
    for each in trees:
        await each.close()


async def test_an_upload_is_seen_whole_or_not_at_all(made: tree.Tree) -> None:
    data = os.urandom(20 * 1024 * 1024 + 5)
    path = f"buckets/{made.name}/big.bin"
    pieces = [data[start : start + 1024 * 1024] for start in range(0, len(data), 1024 * 1024)]
    for number, piece in enumerate(pieces, start=1):
        assert "Contents" not in made.store.list_objects_v2(Bucket=made.name)
        chunk = -1 if number == len(pieces) else number
        content = base64.b64encode(piece).decode()
        await made.save({"type": "file", "format": "base64", "content": content, "chunk": chunk}, path)
    assert made.store.get_object(Bucket=made.name, Key="big.bin")["Body"].read() == data
    await made.save(file() | {"chunk": 1}, path)
    await made.uploads.close()
    assert "Uploads" not in made.store.list_multipart_uploads(Bucket=made.name)
    assert made.store.head_object(Bucket=made.name, Key="big.bin")["ContentLength"] == len(data)


async def test_a_copy_does_not_take_the_place_of_what_was_written_after_the_look(made: tree.Tree) -> None:
    for key in ("a", "b"):
        made.store.put_object(Bucket=made.name, Key=key, Body=key.encode())
    move = await moves.plan(made, f"buckets/{made.name}/a", f"buckets/{made.name}/b")
    with pytest.raises(errors.ConflictError, match="written by somebody else in the meantime"):
        await move.copy()
    assert made.store.get_object(Bucket=made.name, Key="b")["Body"].read() == b"b"


async def test_metadata_survives_a_rename(made: tree.Tree) -> None:
    given = {"ContentType": "x/y", "Metadata": {"by": "ada"}, "Tagging": "k=v"}
    made.store.put_object(Bucket=made.name, Key="f/a", Body=b"a", **given)
    await made.rename(f"buckets/{made.name}/f", f"buckets/{made.name}/g")
    found = made.store.head_object(Bucket=made.name, Key="g/a")
    assert (found["ContentType"], found["Metadata"]) == ("x/y", {"by": "ada"})
    assert made.store.get_object_tagging(Bucket=made.name, Key="g/a")["TagSet"] == [{"Key": "k", "Value": "v"}]


async def test_wrong_keys_say_so(made: tree.Tree, real_bucket: buckets.Bucket, home: Path) -> None:
    wrong = buckets.Bucket(
        real_bucket.view,
        buckets.Store(real_bucket.store.endpoint_url, "us-east-1", model.AccessKey("AKNOBODY", "wrong")),
    )
    stranger = tree_server.make_tree(home, [wrong])
    assert "your keys were refused" in await refused(stranger.get(f"buckets/{made.name}"), 403)
    await stranger.close()


async def test_a_folder_of_1000_is_renamed_and_deleted(made: tree.Tree) -> None:
    await asyncio.gather(*(made.save(file(str(n)), f"buckets/{made.name}/f/{n % 7}/{n}") for n in range(1010)))
    await made.rename(f"buckets/{made.name}/f", f"buckets/{made.name}/g")
    found = made.store.get_paginator("list_objects_v2").paginate(Bucket=made.name)
    keys = {each["Key"] for page in found for each in page["Contents"]}
    assert keys == {f"g/{n % 7}/{n}" for n in range(1010)}
    await made.delete(f"buckets/{made.name}/g")
    assert (await made.get(f"buckets/{made.name}"))["content"] == []
