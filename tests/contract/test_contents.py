"""What JupyterLab does with files and folders, the same in the home, in a bucket and in a granted prefix of one."""

from __future__ import annotations

import base64
from typing import Any

import nbformat
import pytest
from jupyter_core.utils import ensure_async
from jupyter_server.services.contents import handlers
from tornado import web
from tree_fixtures import Corner

pytestmark = pytest.mark.parametrize(
    "corner",
    ["home", "folder", "strict", "prefix", pytest.param("seaweedfs", marks=pytest.mark.s3)],
    indirect=True,
)

NAMES = [
    "plain.txt",
    "with space",
    " leading",
    "trailing ",
    "%41",
    "a%2Fb",
    "#hash",
    "q?x=1&y",
    "a+b",
    "[ab]*",
    "x?.txt",
    "quo'te\"",
    "emoji😀",
    "e\u0301",
    "\u00e9",
    "new\nline",
    "tab\there",
    "<xml>&amp;",
    "d:rive",
    "~tilde",
    "semi;colon,comma",
    "checkpoints.txt",
    "∅empty",
    "a∅",
    "x" * 240,
]


def file(text: str = "x") -> dict[str, Any]:
    return {"type": "file", "format": "text", "content": text}


async def test_a_file_is_written_read_listed_and_deleted(corner: Corner) -> None:
    model = await corner.tree.save(file("häbäri"), corner.path("a.txt"))
    handlers.validate_model(model)
    assert (model["name"], model["path"], model["type"]) == ("a.txt", corner.path("a.txt"), "file")
    model = await corner.tree.get(corner.path("a.txt"), require_hash=True)
    handlers.validate_model(model, expect_content=True, expect_hash=True)
    assert (model["content"], model["format"], model["mimetype"]) == ("häbäri", "text", "text/plain")
    assert model["writable"]
    assert await corner.names() == ["a.txt"] or corner.kind == "home"
    await corner.tree.delete(corner.path("a.txt"))
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.get(corner.path("a.txt"), type="file")
    assert caught.value.status_code == 404


async def test_bytes_that_are_no_text_are_base64(corner: Corner) -> None:
    body = bytes(range(256))
    content = base64.b64encode(body).decode()
    await corner.tree.save({"type": "file", "format": "base64", "content": content}, corner.path("a.bin"))
    model = await corner.tree.get(corner.path("a.bin"))
    assert model["format"] == "base64"
    assert base64.b64decode(model["content"]) == body
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.get(corner.path("a.bin"), format="text")
    assert caught.value.status_code == 400
    assert "UTF-8" in str(caught.value)


async def test_a_notebook_is_written_and_read(corner: Corner) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    model = await corner.tree.save({"type": "notebook", "content": notebook}, corner.path("n.ipynb"))
    handlers.validate_model(model)
    assert model["type"] == "notebook"
    model = await corner.tree.get(corner.path("n.ipynb"))
    handlers.validate_model(model, expect_content=True)
    assert model["content"].cells[0].source == "1 + 1"
    assert (await corner.tree.get(corner.path("n.ipynb"), type="file"))["format"] == "text"


async def test_a_broken_notebook_says_so(corner: Corner) -> None:
    await corner.tree.save(file("{"), corner.path("n.ipynb"))
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.get(corner.path("n.ipynb"), type="notebook")
    assert caught.value.status_code == 400
    assert (await corner.tree.get(corner.path("n.ipynb"), type="file"))["content"] == "{"


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_works_everywhere(corner: Corner, name: str) -> None:
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write(f"f/{name}", name)
    assert await corner.names("f") == [name]
    assert await corner.text(f"f/{name}") == name
    assert await corner.tree.file_exists(corner.path(f"f/{name}"))
    await corner.write(f"f/{name}", "again")
    copied = await corner.tree.copy(corner.path(f"f/{name}"), corner.path("f"))
    assert await corner.text(f"f/{copied['name']}") == "again"
    await corner.tree.delete(copied["path"])
    await corner.tree.rename(corner.path(f"f/{name}"), corner.path("f/other"))
    assert await corner.names("f") == ["other"]
    await corner.tree.rename(corner.path("f/other"), corner.path(f"f/{name}"))
    await corner.tree.save({"type": "directory"}, corner.path("g"))
    await corner.tree.rename(corner.path("f"), corner.path("g/f"))
    assert await corner.text(f"g/f/{name}") == "again"
    await corner.tree.delete(corner.path(f"g/f/{name}"))
    assert await corner.tree.exists(corner.path(f"g/f/{name}")) is False


async def test_names_that_look_like_patterns_touch_only_themselves(corner: Corner) -> None:
    for name in ("[ab].txt", "a.txt", "x?.txt", "xy.txt", "*"):
        await corner.write(f"f-{name}", name)
    await corner.tree.delete(corner.path("f-[ab].txt"))
    await corner.tree.rename(corner.path("f-x?.txt"), corner.path("f-moved"))
    await corner.tree.delete(corner.path("f-*"))
    assert [name for name in await corner.names() if name.startswith("f-")] == ["f-a.txt", "f-moved", "f-xy.txt"]
    assert await corner.text("f-moved") == "x?.txt"


async def test_folders_are_made_listed_and_deleted_with_what_is_in_them(corner: Corner) -> None:
    model = await corner.tree.save({"type": "directory"}, corner.path("f"))
    handlers.validate_model(model)
    assert model["type"] == "directory"
    assert await corner.names("f") == []
    assert await corner.tree.dir_exists(corner.path("f"))
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.tree.save({"type": "directory"}, corner.path("f/g"))
    await corner.write("f/g/h.txt")
    assert await corner.names("f") == ["g"]
    await corner.tree.delete(corner.path("f"))
    assert not await corner.tree.exists(corner.path("f"))
    assert "f" not in await corner.names()
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.get(corner.path("f"))
    assert caught.value.status_code == 404


async def test_a_folder_is_renamed_with_all_that_is_in_it(corner: Corner) -> None:
    names = ["a.txt", "g/b.txt", "g/h/c.txt", "g/[x]*.txt"]
    for folder in ("f", "f/g", "f/g/h", "f/empty"):
        await corner.tree.save({"type": "directory"}, corner.path(folder))
    for name in names:
        await corner.write(f"f/{name}", name)
    await corner.tree.rename(corner.path("f"), corner.path("to"))
    assert not await corner.tree.exists(corner.path("f"))
    assert await corner.names("to") == ["a.txt", "empty", "g"]
    for name in names:
        assert await corner.text(f"to/{name}") == name


async def test_a_folder_is_copied(corner: Corner) -> None:
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write("f/a.txt", "a")
    model = await corner.tree.copy(corner.path("f"), corner.path())
    assert (model["type"], model["name"]) == ("directory", "f-Copy1")
    assert await corner.text("f-Copy1/a.txt") == "a"
    assert await corner.text("f/a.txt") == "a"


async def test_a_rename_never_takes_the_place_of_something(corner: Corner) -> None:
    await corner.write("a.txt", "a")
    await corner.write("b.txt", "b")
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write("f/x")
    for target in ("b.txt", "f"):
        with pytest.raises(web.HTTPError) as caught:
            await corner.tree.rename(corner.path("a.txt"), corner.path(target))
        assert caught.value.status_code == 409
    assert (await corner.text("a.txt"), await corner.text("b.txt")) == ("a", "b")


async def test_a_folder_is_never_moved_into_itself(corner: Corner) -> None:
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write("f/a.txt", "a")
    with pytest.raises(web.HTTPError):
        await corner.tree.rename(corner.path("f"), corner.path("f/g"))
    assert await corner.text("f/a.txt") == "a"


async def test_what_is_missing_is_404(corner: Corner) -> None:
    for act in (
        corner.tree.get(corner.path("no.txt"), type="file"),
        corner.tree.get(corner.path("no.txt"), content=False),
        corner.tree.get(corner.path("no"), type="directory"),
        corner.tree.get(corner.path("no")),
        corner.tree.delete(corner.path("no.txt")),
        corner.tree.rename(corner.path("no.txt"), corner.path("new.txt")),
        corner.tree.copy(corner.path("no.txt")),
    ):
        with pytest.raises(web.HTTPError) as caught:
            await act
        assert caught.value.status_code == 404
    assert not await corner.tree.exists(corner.path("no.txt"))
    assert not await corner.tree.dir_exists(corner.path("no"))


async def test_a_wrong_type_is_400(corner: Corner) -> None:
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write("f/a.txt")
    for kind in ("file", "notebook"):
        with pytest.raises(web.HTTPError) as caught:
            await corner.tree.get(corner.path("f"), type=kind)
        assert caught.value.status_code == 400


async def test_untitled_names_count_up(corner: Corner) -> None:
    got = [(await corner.tree.new_untitled(corner.path(), type="notebook"))["name"] for _ in range(2)]
    assert got == ["Untitled.ipynb", "Untitled1.ipynb"]
    got = [(await corner.tree.new_untitled(corner.path(), type="directory"))["name"] for _ in range(2)]
    assert got == ["Untitled Folder", "Untitled Folder 1"]
    got = [(await corner.tree.new_untitled(corner.path(), type="file", ext=".txt"))["name"] for _ in range(2)]
    assert got == ["untitled.txt", "untitled1.txt"]


async def test_copies_count_up_and_leave_the_source(corner: Corner) -> None:
    await corner.write("a.tar.gz", "a")
    got = [(await corner.tree.copy(corner.path("a.tar.gz")))["name"] for _ in range(2)]
    assert got == ["a-Copy1.tar.gz", "a-Copy2.tar.gz"]
    assert await corner.text("a-Copy2.tar.gz") == "a"
    assert await corner.text("a.tar.gz") == "a"


async def test_checkpoints_restore_or_fail(corner: Corner) -> None:
    await corner.write("a.txt", "one")
    await corner.text("a.txt")
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.restore_checkpoint("checkpoint", corner.path("a.txt"))
    assert caught.value.status_code == 404
    made = await corner.tree.create_checkpoint(corner.path("a.txt"))
    await corner.write("a.txt", "two")
    assert await corner.tree.list_checkpoints(corner.path("a.txt")) == [made]
    await corner.tree.rename(corner.path("a.txt"), corner.path("b.txt"))
    assert await corner.tree.list_checkpoints(corner.path("a.txt")) == []
    await corner.tree.restore_checkpoint(made["id"], corner.path("b.txt"))
    assert await corner.text("b.txt") == "one"
    await corner.tree.delete(corner.path("b.txt"))
    assert await corner.tree.list_checkpoints(corner.path("b.txt")) == []


async def test_checkpoints_go_with_a_folder(corner: Corner) -> None:
    await corner.tree.save({"type": "directory"}, corner.path("f"))
    await corner.write("f/a.txt", "one")
    await corner.tree.create_checkpoint(corner.path("f/a.txt"))
    await corner.write("f/a.txt", "two")
    await corner.tree.rename(corner.path("f"), corner.path("g"))
    await corner.tree.restore_checkpoint("checkpoint", corner.path("g/a.txt"))
    assert await corner.text("g/a.txt") == "one"


def chunk(number: int, data: bytes) -> dict[str, Any]:
    return {"type": "file", "format": "base64", "content": base64.b64encode(data).decode(), "chunk": number}


async def test_an_upload_is_seen_when_its_last_piece_came(corner: Corner) -> None:
    await corner.write("a.bin", "old")
    for number, data in ((1, b"a" * 1000), (2, b"b" * 1000)):
        model = await corner.tree.save(chunk(number, data), corner.path("a.bin"))
        handlers.validate_model(model)
        assert await corner.text("a.bin") == "old"
    model = await corner.tree.save(chunk(-1, b"c"), corner.path("a.bin"))
    handlers.validate_model(model)
    assert model["size"] == 2001
    assert await corner.text("a.bin") == "a" * 1000 + "b" * 1000 + "c"
    assert [name for name in await corner.names() if "upload" in name] == []


async def test_a_gap_or_a_repeat_ends_an_upload_and_the_old_file_stays(corner: Corner) -> None:
    await corner.write("a.bin", "old")
    for wrong in (1, 2, 4, 0):
        await corner.tree.save(chunk(1, b"a"), corner.path("a.bin"))
        await corner.tree.save(chunk(2, b"b"), corner.path("a.bin"))
        with pytest.raises(web.HTTPError) as caught:
            await corner.tree.save(chunk(wrong, b"c"), corner.path("a.bin"))
        assert caught.value.status_code == (409 if wrong == 1 else 400)
        if wrong == 1:
            await corner.tree.uploads.give_up_all()
        with pytest.raises(web.HTTPError, match="without those before it"):
            await corner.tree.save(chunk(-1, b"d"), corner.path("a.bin"))
    assert await corner.text("a.bin") == "old"


async def test_an_upload_that_stops_is_given_up(corner: Corner) -> None:
    corner.tree.upload_timeout_s = 0.05
    await corner.tree.save(chunk(1, b"a"), corner.path("a.bin"))
    watch = corner.tree.uploads._sessions[corner.path("a.bin")].watch
    await watch
    assert not corner.tree.uploads.is_open(corner.path("a.bin"))
    assert not await corner.tree.exists(corner.path("a.bin"))
    assert [name for name in await corner.names() if "a.bin" in name] == []
    corner.tree.upload_timeout_s = 60
    await corner.tree.save(chunk(1, b"a"), corner.path("a.bin"))
    await corner.tree.save(chunk(-1, b"b"), corner.path("a.bin"))
    assert await corner.text("a.bin") == "ab"


@pytest.mark.parametrize("model", [{"type": "file"}, {"content": "x"}, {"type": "link", "content": "x"}])
async def test_a_model_that_says_too_little_is_400(corner: Corner, model: dict[str, Any]) -> None:
    with pytest.raises(web.HTTPError) as caught:
        await corner.tree.save(model, corner.path("a.txt"))
    assert caught.value.status_code == 400
    assert "was not saved" in str(caught.value)


async def test_a_content_that_is_not_its_format_is_400(corner: Corner) -> None:
    for model in ({"format": "base64", "content": "é"}, {"format": "json", "content": {}}):
        with pytest.raises(web.HTTPError) as caught:
            await corner.tree.save({"type": "file"} | model, corner.path("a.txt"))
        assert caught.value.status_code == 400


async def test_a_kernel_of_a_bucket_works_in_the_home(corner: Corner) -> None:
    await corner.write("n.ipynb")
    got = await ensure_async(corner.tree.get_kernel_path(corner.path("n.ipynb")))
    assert got == ("deep/er" if corner.kind == "folder" else "")
