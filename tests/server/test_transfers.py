"""Moves and copies across home, buckets and stores: all of it arrives, or the source is whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import strict_s3
import tree_server
from tornado import web
from tree_fixtures import home, strict, strict_bucket

from habari.server import s3, s3_multipart, tree

__all__ = ["home", "strict"]


@pytest.fixture
async def made(strict: strict_s3.StrictS3, home: Path) -> AsyncIterator[tree.Tree]:
    other = strict_s3.StrictS3()
    other.buckets["far"] = {}
    await other.start()
    found = [strict_bucket(strict, "one"), strict_bucket(strict, "two"), strict_bucket(other, "far")]
    result = tree_server.make_tree(home, found)
    result.far = other
    yield result
    await result.close()
    await other.stop()


async def refused(act: Any, status: int) -> str:
    with pytest.raises(web.HTTPError) as caught:
        await act
    assert caught.value.status_code == status, caught.value
    return str(caught.value.log_message)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


CONTENT = {"a.txt": b"a", "g/b c.txt": b"b", "g/h/%41": b"", "g/h/é": b"x" * 3_000_000}


def fill(store: strict_s3.StrictS3, bucket: str = "one") -> None:
    for name, body in CONTENT.items():
        store.put(bucket, f"f/{name}", body)


def fill_home(home: Path) -> None:
    for name, body in CONTENT.items():
        (home / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "f" / name).write_bytes(body)


async def test_a_folder_moves_from_a_bucket_to_the_home_and_back(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path
) -> None:
    fill(strict)
    strict.put("one", "f/empty/")
    await made.rename("buckets/one/f", "moved")
    assert files_below(home / "moved") == CONTENT
    assert (home / "moved" / "empty").is_dir()
    assert strict.keys("one") == []
    await made.rename("moved", "buckets/one/back")
    assert not (home / "moved").exists()
    found = {key.removeprefix("back/"): each.body for key, each in strict.buckets["one"].items()}
    assert found == CONTENT | {"empty/": b""}


async def test_a_folder_moves_to_another_store(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    fill(strict)
    await made.rename("buckets/one/f", "buckets/far/f")
    assert {key: each.body for key, each in made.far.buckets["far"].items()} == {
        f"f/{k}": v for k, v in CONTENT.items()
    }
    assert strict.keys("one") == []


async def test_a_large_file_goes_in_parts(made: tree.Tree, strict: strict_s3.StrictS3, home: Path) -> None:
    body = os.urandom(s3_multipart.PART_BYTES * 2 + 12345)
    (home / "big.bin").write_bytes(body)
    await made.rename("big.bin", "buckets/one/big.bin")
    assert strict.buckets["one"]["big.bin"].body == body
    assert [line.split(" ")[0] for line in strict.log if "PART" in line] == ["PART"] * 3
    await made.copy("buckets/one/big.bin", "buckets/far")
    assert made.far.buckets["far"]["big.bin"].body == body
    await made.copy("buckets/one/big.bin", "")
    assert (home / "big.bin").read_bytes() == body


async def test_copies_inside_a_store_carry_metadata_and_no_bytes(
    made: tree.Tree, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Content-Type": "x/y", "x-amz-meta-by": "ada"}
    strict.put("one", "a.txt", b"a" * 100, **headers).tags = "k=v"
    await made.copy("buckets/one/a.txt", "buckets/two")
    assert strict.buckets["two"]["a.txt"].headers == headers
    assert strict.buckets["two"]["a.txt"].tags == "k=v"
    assert not [line for line in strict.log if line.startswith(("GET", "PUT"))]
    # Above the largest size of one copy it goes in parts, with the same.
    monkeypatch.setattr(s3_multipart, "MAX_COPY_BYTES", 10)
    monkeypatch.setattr(s3_multipart, "_COPY_PART_BYTES", 40)
    monkeypatch.setattr(strict_s3, "MIN_PART", 1)
    await made.rename("buckets/one/a.txt", "buckets/two/b.txt")
    copied = strict.buckets["two"]["b.txt"]
    assert (copied.body, copied.headers, copied.tags) == (b"a" * 100, headers, "k=v")
    assert strict.uploads == {}


@pytest.mark.parametrize("target", ["buckets/one/to", "buckets/far/to", "to"])
async def test_a_move_that_fails_half_way_leaves_the_source_whole(
    made: tree.Tree, strict: strict_s3.StrictS3, target: str
) -> None:
    fill(strict)

    async def fail(_request: Any, verb: str, key: str) -> Any:
        return strict_s3.error(403, "AccessDenied") if verb in {"COPY", "GET"} and key.endswith("%41") else None

    strict.fault = fail
    said = await refused(made.rename("buckets/one/f", target), 403)
    if target != "buckets/one/to":
        assert "of 4 files had been copied; the source is whole" in said
    strict.fault = None
    assert {key: each.body for key, each in strict.buckets["one"].items() if key.startswith("f/")} == {
        f"f/{name}": body for name, body in CONTENT.items()
    }


async def test_a_copy_that_says_200_and_fails_is_a_failure(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    strict.put("one", "a", b"a")

    async def lie(_request: Any, verb: str, _key: str) -> Any:
        return strict_s3.xml("<Error><Code>InternalError</Code></Error>") if verb == "COPY" else None

    strict.fault = lie
    assert "InternalError" in await refused(made.rename("buckets/one/a", "buckets/one/b"), 503)
    assert strict.keys("one") == ["a"]


@pytest.mark.parametrize("in_parts", [False, True])
async def test_what_a_colleague_puts_there_meanwhile_is_not_overwritten(
    made: tree.Tree, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    if in_parts:
        monkeypatch.setattr(s3_multipart, "MAX_COPY_BYTES", 10)
    strict.put("one", "a", b"mine" * 10)

    async def meddle(_request: Any, verb: str, _key: str) -> Any:
        if verb in {"COPY", "COMPLETE"}:
            strict.put("two", "a", b"theirs")
        return None

    strict.fault = meddle
    said = await refused(made.rename("buckets/one/a", "buckets/two/a"), 409)
    assert "by somebody else in the meantime" in said
    assert "0 of 1 files had been copied; the source is whole." in said
    assert "Delete" not in said
    assert (strict.buckets["two"]["a"].body, strict.keys("one"), strict.uploads) == (b"theirs", ["a"], {})
    if not in_parts:
        assert "'a' in bucket 'two' was written by somebody else in the meantime; choose another name." in said


async def test_a_copy_whose_source_changes_meanwhile_says_so(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    strict.put("one", "a", b"old")

    async def meddle(_request: Any, verb: str, _key: str) -> Any:
        if verb == "COPY":
            strict.put("one", "a", b"new")
        return None

    strict.fault = meddle
    assert "changed by somebody else" in await refused(made.rename("buckets/one/a", "buckets/one/b"), 409)
    assert strict.keys("one") == ["a"]


async def test_a_copy_whose_answer_was_lost_is_found(
    made: tree.Tree, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RETRY_S", 0.001)
    strict.put("one", "a", b"a")

    async def lose(_request: Any, verb: str, key: str) -> Any:
        if verb == "COPY" and key not in strict.buckets["one"]:
            strict.put("one", key, b"a")
            return strict_s3.error(500, "InternalError")
        return None

    strict.fault = lose
    await made.rename("buckets/one/a", "buckets/one/b")
    assert strict.keys("one") == ["b"]


async def test_a_copy_that_is_not_there_is_noticed(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    fill(strict)

    async def lie(_request: Any, verb: str, key: str) -> Any:
        if verb == "COPY" and key.endswith("a.txt"):
            return strict_s3.xml("<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
        return None

    strict.fault = lie
    said = await refused(made.rename("buckets/one/f", "buckets/one/to"), 503)
    assert "1 of 4 copies are missing or differ" in said
    assert len([key for key in strict.keys("one") if key.startswith("f/")]) == 4


async def test_what_changes_during_a_move_stays(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    fill(strict)
    strict.put("one", "lone", b"old")

    async def meddle(_request: Any, verb: str, key: str) -> Any:
        if verb == "COPY" and key.endswith("to/g/h/é"):
            strict.put("one", "f/new", b"new")
        if verb == "LIST" and any(line.startswith("COPY") for line in strict.log):
            strict.put("one", "f/a.txt", b"changed")
        if verb == "DELETE" and key == "lone":
            strict.put("one", "lone", b"newer")
        return None

    strict.fault = meddle
    said = await refused(made.rename("buckets/one/f", "buckets/one/to"), 409)
    assert "2 of its files changed meanwhile" in said
    left = {key: each.body for key, each in strict.buckets["one"].items() if key.startswith("f/")}
    assert left == {"f/a.txt": b"changed", "f/new": b"new"}
    assert "1 of its files changed" in await refused(made.rename("buckets/one/lone", "buckets/one/moved"), 409)
    assert strict.buckets["one"]["lone"].body == b"newer"


async def test_a_file_of_the_home_that_changes_during_a_move_stays(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path
) -> None:
    fill_home(home)

    async def meddle(_request: Any, verb: str, _key: str) -> Any:
        if verb == "LIST" and any(line.startswith("PUT") for line in strict.log):
            (home / "f" / "a.txt").write_bytes(b"changed")
            (home / "f" / "new").write_bytes(b"new")
        return None

    strict.fault = meddle
    said = await refused(made.rename("f", "buckets/one/f"), 409)
    assert "these stay where they were" in said
    assert files_below(home / "f") == {"a.txt": b"changed", "new": b"new"}


@pytest.mark.parametrize("key", ["a//b", "./x", "x/../y", "/abs", "y" * 300, "both/in", "full/"])
async def test_what_the_home_cannot_hold_is_refused_before_anything_is_written(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path, key: str
) -> None:
    for each in ("both", key, "ok"):
        strict.put("one", f"f/{each}", b"x")
    assert "cannot be a file there" in await refused(made.rename("buckets/one/f", "f"), 400)
    assert files_below(home) == {}
    assert len(strict.buckets["one"]) == 3


async def test_links_to_folders_do_not_go_to_a_bucket(made: tree.Tree, strict: strict_s3.StrictS3, home: Path) -> None:
    fill_home(home)
    (home / "f" / "link").symlink_to(home)
    assert "a link to a folder or no file" in await refused(made.rename("f", "buckets/one/f"), 400)
    (home / "f" / "link").unlink()
    (home / "f" / "link").symlink_to("nowhere")
    assert "a broken link" in await refused(made.rename("f", "buckets/one/f"), 400)
    os.mkfifo(home / "pipe")
    assert "or no file" in await refused(made.rename("pipe", "buckets/one/p"), 400)
    assert strict.keys("one") == []
    assert (home / "f" / "a.txt").exists()


async def test_a_copy_never_takes_the_place_of_something(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path
) -> None:
    strict.put("one", "a", b"a")
    strict.put("one", "b", b"b")
    (home / "b").write_bytes(b"home")
    for target in ("buckets/one/b", "b"):
        assert "exists already" in await refused(made.copy("buckets/one/a", target), 409)
    assert "no folder" in await refused(made.copy("buckets/one/a", "buckets/one/no/b"), 404)
    assert "exists already" in await refused(made.rename("buckets/one/a", "b"), 409)
    assert (home / "b").read_bytes() == b"home"


async def test_a_bucket_is_copied_whole_into_the_home(made: tree.Tree, strict: strict_s3.StrictS3, home: Path) -> None:
    fill(strict)
    await made.copy("buckets/one", "")
    assert files_below(home / "one") == {f"f/{name}": body for name, body in CONTENT.items()}


async def test_checkpoints_go_along_between_home_and_bucket(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path
) -> None:
    (home / "a.txt").write_bytes(b"one")
    await made.create_checkpoint("a.txt")
    await made.rename("a.txt", "buckets/one/a.txt")
    (kept,) = await made.list_checkpoints("buckets/one/a.txt")
    await made.save({"type": "file", "format": "text", "content": "two"}, "buckets/one/a.txt")
    await made.rename("buckets/one/a.txt", "b.txt")
    await made.restore_checkpoint(kept["id"], "b.txt")
    assert (home / "b.txt").read_bytes() == b"one"
    assert strict.keys("one") == []
