"""Home and buckets in one tree: what is shown, what is refused, and that nobody's version is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import strict_s3
import tree_server
from jupyter_core.utils import ensure_async
from tornado import web
from tree_fixtures import home, strict, strict_bucket

from habari.core import errors, model
from habari.server import buckets, tree

__all__ = ["home", "strict"]


@pytest.fixture
async def made(strict: strict_s3.StrictS3, home: Path) -> AsyncIterator[tree.Tree]:
    result = tree_server.make_tree(home, [strict_bucket(strict, "one"), strict_bucket(strict, "two")])
    result.home.delete_to_trash = False
    result.home.always_delete_dir = True
    yield result
    await result.close()


def file(text: str = "x") -> dict[str, Any]:
    return {"type": "file", "format": "text", "content": text}


async def names(made: tree.Tree, path: str) -> list[str]:
    return sorted(each["name"] for each in (await made.get(path, type="directory"))["content"])


async def refused(act: Any, status: int) -> str:
    with pytest.raises(web.HTTPError) as caught:
        await act
    assert caught.value.status_code == status, caught.value
    return str(caught.value.log_message)


# What is shown


async def test_the_root_shows_home_and_buckets(made: tree.Tree, home: Path) -> None:
    (home / "a.txt").write_text("a")
    (home / "buckets").mkdir()
    (home / "buckets" / "real.txt").write_text("real")
    assert await names(made, "") == ["a.txt", "buckets", "buckets (home)"]
    assert await names(made, "buckets") == ["one", "two"]
    found = await made.get("buckets (home)")
    assert [each["path"] for each in found["content"]] == ["buckets (home)/real.txt"]
    assert (await made.get("buckets (home)/real.txt"))["content"] == "real"
    await made.save(file("new"), "buckets (home)/new.txt")
    assert (home / "buckets" / "new.txt").read_text() == "new"
    assert await ensure_async(made.get_kernel_path("buckets (home)/n.ipynb")) == "buckets"
    assert await made.resolve_path("buckets/real.txt") == "buckets (home)/real.txt"
    assert await made.resolve_path("no") is None


async def test_without_buckets_the_tree_is_the_home(home: Path) -> None:
    made = tree.Tree(root_dir=str(home))
    assert await names(made, "") == []
    assert "without buckets" in await refused(made.get("buckets/x"), 404)
    assert not await made.exists("buckets")


async def test_a_new_grant_shows_in_an_open_tree(
    made: tree.Tree, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await names(made, "buckets") == ["one", "two"]
    strict.buckets["three"] = {}
    made.test_source.found.append(strict_bucket(strict, "three"))
    assert await names(made, "buckets") == ["one", "two"]
    monkeypatch.setattr(buckets, "COALESCE_S", 0.0)
    assert await names(made, "buckets") == ["one", "two", "three"] or await names(made, "buckets")
    assert await names(made, "buckets/three") == []
    assert buckets.COALESCE_S < 2


async def test_looks_share_one_question(made: tree.Tree) -> None:
    await asyncio.gather(*(made.get("buckets") for _ in range(20)))
    assert made.test_source.asked == 1


async def test_a_source_that_fails_leaves_what_was_known(made: tree.Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    made.test_source.fails = errors.UnavailableError("The storage service does not answer; try again.")
    assert "does not answer" in await refused(made.get("buckets"), 503)
    assert await names(made, "") == ["buckets"]
    made.test_source.fails = None
    assert await names(made, "buckets") == ["one", "two"]
    made.test_source.fails = errors.UnavailableError("The storage service does not answer; try again.")
    monkeypatch.setattr(buckets, "COALESCE_S", 0.0)
    assert await names(made, "buckets") == ["one", "two"]


async def test_denied_and_missing_buckets_show_and_say_why(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    strict.denied.add("one")
    del strict.buckets["two"]
    assert await names(made, "buckets") == ["one", "two"]
    assert "AccessDenied" in await refused(made.get("buckets/one"), 403)
    assert "AccessDenied" in await refused(made.get("buckets/one/x", type="file", content=False), 403)
    assert "NoSuchBucket" in await refused(made.get("buckets/two"), 404)
    assert "among yours" in await refused(made.get("buckets/nobodys"), 404)
    assert not [line for line in strict.log if line.startswith(("PUT", "DELETE"))]
    assert "NoSuchBucket" in await refused(made.save(file(), "buckets/two/x"), 404)


async def test_keys_that_are_refused_say_so(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    async def refuse(*_: object) -> Any:
        return strict_s3.error(403, "InvalidAccessKeyId")

    strict.fault = refuse
    assert "your keys were refused" in await refused(made.get("buckets/one"), 403)
    assert "your keys were refused" in await refused(made.get("buckets/one/x", type="file", content=False), 403)


async def test_every_key_of_a_strict_store_is_shown_and_opens(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    keys = ["a//b", "./x", "../z", "x/./y", "/abs", "both", "both/inner", "back\\slash", "dir/", "full/", "∅", "n▸"]
    keys += ["run/checkpoints", "run/trust/me", "checkpoints/1", "c\x01tl", "y" * 1024]
    for key in keys:
        strict.put("one", key, b"" if key == "dir/" else key.encode())
    found = {}
    todo = ["buckets/one"]
    while todo:
        for each in (await made.get(todo.pop(), type="directory"))["content"]:
            if each["type"] == "directory":
                todo.append(each["path"])
            else:
                found[each["path"]] = (await made.get(each["path"], type=each["type"], format="text"))["content"]
    assert sorted(found.values()) == sorted(key for key in keys if key != "dir/")
    for path, key in found.items():
        await made.save(file("new"), path)
        assert strict.buckets["one"][key].body == b"new"
        await made.rename(path, "buckets/two/moved")
        assert key not in strict.buckets["one"]
        if key == "both":  # a folder has the name, and the file does not become its twin
            await refused(made.rename("buckets/two/moved", path), 409)
            await made.delete("buckets/two/moved")
            continue
        await made.rename("buckets/two/moved", path)
        await made.delete(path)
    assert strict.keys("one") == ["dir/"]


async def test_an_object_and_a_folder_of_one_name_are_two(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    strict.put("one", "a", b"file")
    strict.put("one", "a/b", b"inner")
    assert await names(made, "buckets/one") == ["a", "a▸"]
    assert await names(made, "buckets/one/a▸") == ["b"]
    await made.rename("buckets/one/a", "buckets/one/c")
    assert strict.keys("one") == ["a/b", "c"]
    await made.rename("buckets/one/c", "buckets/two/a")
    strict.put("one", "a", b"file")
    await made.delete("buckets/one/a")
    assert strict.keys("one") == ["a/b"]
    strict.put("one", "a", b"file")
    await made.delete("buckets/one/a▸")
    assert strict.keys("one") == ["a"]


async def test_nothing_is_written_that_the_user_did_not_write(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    await made.save({"type": "directory"}, "buckets/one/f")
    assert strict.keys("one") == ["f/"]
    await made.new_untitled("buckets/one/f", type="notebook")
    await made.get("buckets/one/f/Untitled.ipynb")
    await made.create_checkpoint("buckets/one/f/Untitled.ipynb")
    assert strict.keys("one") == ["f/", "f/Untitled.ipynb"]
    assert await names(made, "buckets/one/f") == ["Untitled.ipynb"]


# What is refused


async def test_the_folder_of_buckets_and_buckets_themselves_are_not_changed_here(made: tree.Tree, home: Path) -> None:
    (home / "a.txt").write_text("a")
    for act in (
        made.save(file(), "buckets/x"),
        made.save({"type": "directory"}, "buckets/x"),
        made.delete("buckets"),
        made.delete("buckets/one"),
        made.rename("buckets/one", "mine"),
        made.rename("a.txt", "buckets/x"),
        made.rename("buckets", "b"),
        made.copy("a.txt", "buckets"),
        made.new_untitled("buckets", type="notebook"),  # JupyterLab's launcher, while that folder is open
    ):
        assert "holds buckets alone" in await refused(act, 403)
    assert (home / "a.txt").exists()


async def test_a_read_only_bucket_is_not_written(strict: strict_s3.StrictS3, home: Path) -> None:
    strict.put("one", "a.txt", b"a")
    (home / "h.txt").write_text("h")
    made = tree_server.make_tree(home, [strict_bucket(strict, "one", access=model.Access.READ)])
    assert [each["writable"] for each in (await made.get("buckets/one"))["content"]] == [False]
    assert not (await made.get("buckets/one/a.txt"))["writable"]
    chunk = file() | {"chunk": 1}
    for act in (
        made.save(file(), "buckets/one/a.txt"),
        made.save({"type": "directory"}, "buckets/one/f"),
        made.save(chunk, "buckets/one/a.txt"),
        made.delete("buckets/one/a.txt"),
        made.rename("buckets/one/a.txt", "buckets/one/b.txt"),
        made.rename("buckets/one/a.txt", "a.txt"),
        made.rename("h.txt", "buckets/one/h.txt"),
        made.copy("h.txt", "buckets/one"),
        made.new_untitled("buckets/one", type="file"),
    ):
        assert "ask the owner of bucket 'one'" in await refused(act, 403)
    assert strict.keys("one") == ["a.txt"]
    assert os.listdir(home) == ["h.txt"]  # noqa: PTH208 - a list of names is what is meant
    await made.copy("buckets/one/a.txt", "")
    assert (home / "a.txt").read_text() == "a"
    await made.close()


async def test_a_granted_prefix_shows_itself_and_the_way_to_it(strict: strict_s3.StrictS3, home: Path) -> None:
    for key in ("team/a/x", "team/b/secret", "log-1", "other"):
        strict.put("one", key)
    made = tree_server.make_tree(home, [strict_bucket(strict, "one", prefixes=["team/a/", "log-"])])
    assert await names(made, "buckets/one") == ["log-1", "team"]
    assert await names(made, "buckets/one/team") == ["a"]
    assert await names(made, "buckets/one/team/a") == ["x"]
    assert "LIST" not in strict.log
    assert "LIST team/" not in strict.log
    found = {each["name"]: each["writable"] for each in (await made.get("buckets/one"))["content"]}
    assert found == {"log-1": True, "team": False}
    await refused(made.save(file(), "buckets/one/other"), 403)
    await made.save(file(), "buckets/one/team/a/y")
    await made.close()


async def test_a_folder_with_contents_stays_where_jupyter_is_told_so(
    made: tree.Tree, strict: strict_s3.StrictS3
) -> None:
    made.always_delete_dir = False
    strict.put("one", "f/a")
    strict.put("one", "empty/")
    assert "is not empty" in await refused(made.delete("buckets/one/f"), 400)
    await made.delete("buckets/one/empty")
    assert strict.keys("one") == ["f/a"]


async def test_a_delete_that_leaves_something_says_so(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    for number in range(1200):
        strict.put("one", f"f/{number}")
    batches = 0

    async def keep(_request: Any, verb: str, _key: str) -> Any:
        nonlocal batches
        batches += verb == "MULTIDELETE"
        if verb != "MULTIDELETE":
            return None
        if batches == 1:
            return strict_s3.xml("<DeleteResult><Error><Key>f/7</Key><Code>AccessDenied</Code></Error></DeleteResult>")
        return strict_s3.error(403, "AccessDenied")

    strict.fault = keep
    said = await refused(made.delete("buckets/one/f"), 503)
    assert "some of its 1,200 objects stay ('f/7': AccessDenied)" in said
    batches = 1
    await refused(made.delete("buckets/one/f"), 403)
    assert len(strict.keys("one")) == 1200


async def test_the_root_is_not_deleted_or_written(made: tree.Tree) -> None:
    assert "cannot be deleted" in await refused(made.delete("/"), 400)
    assert "root of the tree" in await refused(made.save({"type": "directory"}, ""), 400)
    assert "a mapping" in await refused(made.save({"type": "notebook", "content": "x"}, "buckets/one/n.ipynb"), 400)
    assert "names a folder" in await refused(made.save(file(), "buckets/one/a▸"), 400)


async def test_a_checkpoint_that_does_not_follow_stops_no_move(
    made: tree.Tree, strict: strict_s3.StrictS3, caplog: pytest.LogCaptureFixture
) -> None:
    strict.put("one", "a", b"a")
    await made.create_checkpoint("buckets/one/a")

    async def broken(*_: object) -> None:
        raise OSError

    made.checkpoints.rename_all_checkpoints = broken
    made.checkpoints.delete_all_checkpoints = broken
    await made.rename("buckets/one/a", "buckets/one/b")
    await made.delete("buckets/one/b")
    assert strict.keys("one") == []
    assert "did not follow it" in caplog.text
    assert "were not deleted" in caplog.text


# No lost update


async def lab_save(made: tree.Tree, path: str, text: str, base: str | None) -> str | None:
    """Save as JupyterLab does: look, compare with the version of one's own, write, look again.

    Returns:
        The hash that JupyterLab takes for its own version then; None where it asks what to do.
    """
    looked = await made.get(path, content=False, type="file", require_hash=True)
    if base is not None and looked["hash"] != base:
        return None
    await made.file_exists(path)
    await made.save(file(text), path)
    return (await made.get(path, content=False, type="file", require_hash=True))["hash"]


async def test_two_writers_at_every_step(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    path = "buckets/one/a.txt"
    strict.put("one", "a.txt", b"first")
    base = (await made.get(path, type="file", require_hash=True))["hash"]

    # Somebody writes before Lab looks: Lab asks.
    strict.put("one", "a.txt", b"theirs")
    assert await lab_save(made, path, "mine", base) is None
    # The user chooses to overwrite: Lab writes without a further look.
    await made.save(file("mine"), path)
    assert strict.buckets["one"]["a.txt"].body == b"mine"

    # Somebody writes between Lab's look and its write: 409, then Lab asks, then overwriting works.
    await made.get(path, content=False, type="file")
    strict.put("one", "a.txt", b"theirs 2")
    assert "choose between the two versions" in await refused(made.save(file("mine 2"), path), 409)
    assert strict.buckets["one"]["a.txt"].body == b"theirs 2"
    looked = await made.get(path, content=False, type="file", require_hash=True)
    assert looked["hash"] == strict.buckets["one"]["a.txt"].etag
    await made.save(file("mine 2"), path)
    assert strict.buckets["one"]["a.txt"].body == b"mine 2"

    # Somebody writes between Lab's write and the look after it: Lab must not take theirs for its own.
    await made.get(path, content=False, type="file")
    saved = await made.save(file("mine 3"), path)
    strict.put("one", "a.txt", b"theirs 3")
    looked = await made.get(path, content=False, type="file", require_hash=True)
    assert looked["hash"] == saved["hash"]
    assert await refused(made.save(file("mine 4"), path), 409)
    assert strict.buckets["one"]["a.txt"].body == b"theirs 3"
    looked = await made.get(path, content=False, type="file", require_hash=True)
    assert looked["hash"] != saved["hash"]


async def test_a_listing_is_no_base_of_a_save(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    path = "buckets/one/a.txt"
    strict.put("one", "a.txt", b"first")
    await made.get(path, type="file")
    strict.put("one", "a.txt", b"theirs")
    assert all(each["hash"] is None for each in (await made.get("buckets/one"))["content"])
    await refused(made.save(file("mine"), path), 409)


async def test_a_new_file_never_takes_the_place_of_one_that_came_meanwhile(
    made: tree.Tree, strict: strict_s3.StrictS3
) -> None:
    assert not await made.file_exists("buckets/one/a.txt")
    strict.put("one", "a.txt", b"theirs")
    assert "somebody made a file of this name" in await refused(made.save(file("mine"), "buckets/one/a.txt"), 409)
    assert strict.buckets["one"]["a.txt"].body == b"theirs"


async def test_a_file_that_was_deleted_meanwhile_is_a_conflict_and_then_made_anew(
    made: tree.Tree, strict: strict_s3.StrictS3
) -> None:
    strict.put("one", "a.txt", b"first")
    await made.get("buckets/one/a.txt", type="file")
    del strict.buckets["one"]["a.txt"]
    assert "changed or deleted" in await refused(made.save(file("mine"), "buckets/one/a.txt"), 409)
    await refused(made.get("buckets/one/a.txt", type="file", content=False), 404)
    await made.save(file("mine"), "buckets/one/a.txt")
    assert strict.buckets["one"]["a.txt"].body == b"mine"


async def test_two_servers_that_save_at_once_have_one_winner(strict: strict_s3.StrictS3, tmp_path: Path) -> None:
    strict.put("one", "a.txt", b"first")
    trees = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        trees.append(tree_server.make_tree(tmp_path / str(number), [strict_bucket(strict)]))
    for each in trees:
        await each.get("buckets/one/a.txt", type="file")
    saves = (each.save(file(str(number)), "buckets/one/a.txt") for number, each in enumerate(trees))
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1
    for each in trees:
        await each.close()


# Requests


async def test_requests_per_action(made: tree.Tree, strict: strict_s3.StrictS3) -> None:
    for number in range(2500):
        strict.put("one", f"many/{number}")
    for number in range(10):
        strict.put("one", f"folders/{number}/x")
    strict.put("one", "a.txt", b"x")

    async def asked(*acts: Any) -> list[str]:
        strict.log.clear()
        for act in acts:
            await act
        return [line.split(" ")[0] for line in strict.log]

    assert await asked(made.get("buckets/one/many", type="directory")) == ["LIST"] * 3
    assert await asked(made.get("buckets/one/folders", type="directory")) == ["LIST"]
    assert await asked(made.get("buckets/one/a.txt", type="file")) == ["GET"]
    path = "buckets/one/a.txt"
    ctrl_s = (
        made.get(path, type="file", content=False),
        made.file_exists(path),
        made.save(file("y"), path),
        made.get(path, type="file", content=False),
        made.create_checkpoint(path),
    )
    assert await asked(*ctrl_s) == ["HEAD", "PUT", "GET"]
    assert await asked(made.file_exists("buckets/one/new"), made.save(file(), "buckets/one/new")) == ["HEAD", "PUT"]
    assert await asked(made.delete("buckets/one/many")) == ["HEAD", "LIST", "LIST", "LIST"] + ["MULTIDELETE"] * 3


# Trust


async def test_a_notebook_that_others_wrote_is_never_trusted(strict: strict_s3.StrictS3, tmp_path: Path) -> None:
    for name in ("ada", "bob"):
        (tmp_path / name).mkdir()
    ada, bob = (tree_server.make_tree(tmp_path / name, [strict_bucket(strict)]) for name in ("ada", "bob"))
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", {"text/html": "<b>1</b>"})])
    cell.metadata["trusted"] = True
    notebook = nbformat.v4.new_notebook(cells=[cell])
    path = "buckets/one/n.ipynb"
    await ada.save({"type": "notebook", "content": notebook}, path)
    assert b"trusted" not in strict.buckets["one"]["n.ipynb"].body
    assert (await ada.get(path))["content"].cells[0].metadata.trusted is True
    assert not (await bob.get(path))["content"].cells[0].metadata.get("trusted")
    strict.put(
        "one",
        "forged.ipynb",
        nbformat.writes(notebook).replace('"metadata": {}', '"metadata": {"trusted": true}').encode(),
    )
    assert not (await bob.get("buckets/one/forged.ipynb"))["content"].cells[0].metadata.get("trusted")
    await bob.trust_notebook(path)
    assert (await bob.get(path))["content"].cells[0].metadata.trusted is True
    for each in (ada, bob):
        await each.close()


async def test_hooks_run_once_in_home_and_buckets(made: tree.Tree, home: Path) -> None:
    before, after = [], []
    made.register_pre_save_hook(lambda **given: before.append(given["path"]))
    made.register_post_save_hook(lambda **given: after.append(given["os_path"]))
    await made.save(file(), "a.txt")
    await made.save(file(), "buckets/one/a.txt")
    assert before == ["a.txt", "buckets/one/a.txt"]
    assert after == [str(home / "a.txt")]
