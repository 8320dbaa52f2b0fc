"""Through a real Jupyter server: downloads, uploads, names and statuses as a browser meets them."""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import strict_s3
import tree_server
from aiohttp import web
from tree_fixtures import home, strict, strict_bucket

from habari.server import s3_multipart

__all__ = ["home", "strict"]

BODY = bytes(range(256)) * 8000


@pytest.fixture
async def server(strict: strict_s3.StrictS3, home: Path) -> AsyncIterator[tree_server.Server]:
    async with tree_server.serve(home, [strict_bucket(strict, "one"), strict_bucket(strict, "two")]) as running:
        yield running


@pytest.fixture(params=["home", "bucket"])
def there(request: pytest.FixtureRequest, strict: strict_s3.StrictS3, home: Path) -> str:
    """The path of a folder that holds `a.bin`, `page.html` and `n.ipynb`, in home and in a bucket."""
    for name, body in (("a.bin", BODY), ("page.html", b"<script>1</script>"), ("n.ipynb", b"{}"), ("t.txt", b"text")):
        strict.put("one", name, body, **{"Content-Type": "x/stored"})
        (home / name).write_bytes(body)
    return "" if request.param == "home" else "buckets/one/"


async def test_a_file_comes_whole(server: tree_server.Server, there: str) -> None:
    answer = await server.file(f"{there}a.bin")
    assert answer.status_code == 200
    assert answer.content == BODY
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["ETag"]
    assert "Content-Disposition" not in answer.headers
    assert (await server.file(f"{there}t.txt")).headers["Content-Type"] == "text/plain; charset=UTF-8"
    answer = await server.file(f"{there}n.ipynb")
    assert answer.headers["Content-Type"] == "application/x-ipynb+json"
    assert "attachment" in answer.headers["Content-Disposition"]


async def test_head_says_the_same_without_the_file(server: tree_server.Server, there: str) -> None:
    got, head = await server.file(f"{there}a.bin"), await server.file(f"{there}a.bin", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "ETag", "Last-Modified", "Content-Type", "Accept-Ranges"):
        assert head.headers[name] == got.headers[name]


async def test_a_download_is_named_after_the_file(server: tree_server.Server, strict: strict_s3.StrictS3) -> None:
    for key, shown in (('dé \n"x.csv', 'dé \n"x.csv'), ("a//b c", "a/∅/b c")):
        strict.put("one", key, b"x")
        answer = await server.file(f"buckets/one/{shown}", params={"download": "1"})
        assert answer.status_code == 200
        name = urllib.parse.quote(key.rpartition("/")[2], safe="")
        assert answer.headers["Content-Disposition"] == f"attachment; filename*=utf-8''{name}"


@pytest.mark.parametrize(
    ("span", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=999999999-", 416, slice(0, 0)),
        ("bytes=0-1,5-6", 200, slice(0, None)),
        ("lines=1-2", 200, slice(0, None)),
    ],
)
async def test_ranges(server: tree_server.Server, there: str, span: str, status: int, part: slice) -> None:
    answer = await server.file(f"{there}a.bin", headers={"Range": span})
    assert answer.status_code == status
    assert answer.content == BODY[part]
    if status == 206:
        assert answer.headers["Content-Range"] == "bytes {}-{}/{}".format(*_ends(part), len(BODY))


def _ends(part: slice) -> tuple[int, int]:
    start, end, _ = part.indices(len(BODY))
    return start, end - 1


async def test_if_range_sends_the_part_of_that_version_or_the_whole(server: tree_server.Server, there: str) -> None:
    etag = (await server.file(f"{there}a.bin", "HEAD")).headers["ETag"]
    span = {"Range": "bytes=0-9"}
    assert (await server.file(f"{there}a.bin", headers=span | {"If-Range": etag})).status_code == 206
    answer = await server.file(f"{there}a.bin", headers=span | {"If-Range": '"other"'})
    assert (answer.status_code, answer.content) == (200, BODY)


async def test_a_known_version_is_304(server: tree_server.Server, there: str) -> None:
    etag = (await server.file(f"{there}a.bin")).headers["ETag"]
    answer = await server.file(f"{there}a.bin", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert (await server.file(f"{there}a.bin", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_pages_run_no_script(server: tree_server.Server, there: str) -> None:
    policy = (await server.file(f"{there}page.html")).headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert ("allow-scripts" in policy) == (there == "")
    assert "allow-same-origin" not in policy


async def test_what_is_no_file(server: tree_server.Server, there: str, home: Path) -> None:
    (home / "f").mkdir()
    (home / ".secret").write_text("x")
    assert (await server.file(f"{there}no")).status_code == 404
    assert (await server.file("f")).status_code == 400
    assert (await server.file("buckets/one")).status_code == 400
    assert (await server.file(".secret")).status_code == 404
    assert (await server.file("../home-checkpoints")).status_code == 404
    assert (await server.file("buckets/nobodys/x")).status_code == 404


async def test_downloads_need_a_token(server: tree_server.Server, there: str) -> None:
    async with httpx.AsyncClient() as nobody:
        for path in (f"files/{there}a.bin", f"api/contents/{there}a.bin"):
            assert (await nobody.get(server.url + path)).status_code in {302, 403}


async def test_a_denied_bucket_is_403(server: tree_server.Server, strict: strict_s3.StrictS3) -> None:
    strict.denied.add("one")
    assert (await server.file("buckets/one/a")).status_code == 403
    assert (await server.file("buckets/one/a", "HEAD")).status_code == 403


async def test_a_download_that_breaks_off_does_not_look_whole(
    server: tree_server.Server, strict: strict_s3.StrictS3
) -> None:
    async def broken(request: web.Request, _verb: str, _key: str) -> Any:
        response = web.StreamResponse(headers={"Content-Length": "3000000", "ETag": '"x"'})
        await response.prepare(request)
        await response.write(b"x" * 1_500_000)
        assert request.transport
        request.transport.abort()
        return response

    strict.fault = broken
    with pytest.raises(httpx.RemoteProtocolError):
        await server.file("buckets/one/a.bin")


async def test_a_download_waits_for_a_slow_reader(server: tree_server.Server, strict: strict_s3.StrictS3) -> None:
    sent = 0
    size = 64 * 1024 * 1024

    async def endless(request: web.Request, _verb: str, _key: str) -> Any:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(size), "ETag": '"x"'})
        await response.prepare(request)
        while sent < size:
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    strict.fault = endless
    got = 0
    async with server.http.stream("GET", f"{server.url}files/buckets/one/a.bin") as answer:
        pieces = answer.aiter_raw(65536)
        got += len(await anext(pieces))
        for _ in range(50):  # give both sides the loop; whatever is not taken must not be sent
            await server.http.get(f"{server.url}api/status")
        assert sent < size / 2
        async for piece in pieces:
            got += len(piece)
    assert got == size


# The contents API


@pytest.mark.parametrize(
    "name", ["%41", "#a", "q?x=1", "a+b", "with space", "é", "new\nline", "back\\slash", "a%2Fb", "∅."]
)
async def test_names_survive_the_url(server: tree_server.Server, strict: strict_s3.StrictS3, name: str) -> None:
    key = "." if name == "∅." else name
    body = {"type": "file", "format": "text", "content": "x"}
    answer = await server.contents("PUT", f"buckets/one/{name}", body)
    assert answer.status_code == 201
    assert strict.keys("one") == [key]
    answer = await server.contents("GET", f"buckets/one/{name}", type="file")
    assert answer.json()["content"] == "x"
    assert (await server.file(f"buckets/one/{name}")).content == b"x"
    answer = await server.contents("PATCH", f"buckets/one/{name}", {"path": f"buckets/one/f/{name}"})
    assert answer.status_code == 200
    assert strict.keys("one") == [f"f/{key}"]
    answer = await server.contents("POST", "buckets/one", {"copy_from": f"buckets/one/f/{name}"})
    assert answer.status_code == 201
    assert (await server.contents("DELETE", f"buckets/one/f/{name}")).status_code == 204


async def test_folders_that_jupyter_keeps_for_itself_open(
    server: tree_server.Server, strict: strict_s3.StrictS3
) -> None:
    strict.put("one", "run/checkpoints/step-1/x", b"x")
    strict.put("one", "run/trust", b"x")
    found = (await server.contents("GET", "buckets/one/run")).json()["content"]
    assert [each["path"] for each in found] == ["buckets/one/run/checkpoints▸", "buckets/one/run/∅trust"]
    for path in ("buckets/one/run/checkpoints▸", "buckets/one/run/checkpoints▸/step-1", "buckets/one/run/∅trust"):
        answer = await server.contents("GET", path)
        assert (answer.status_code, answer.json()["path"]) == (200, path)


async def test_errors_reach_the_user_as_sentences(server: tree_server.Server, strict: strict_s3.StrictS3) -> None:
    strict.put("one", "100%.txt", b"x")
    body = {"type": "file", "format": "text", "content": "mine"}
    await server.contents("GET", "buckets/one/100%.txt", type="file")
    strict.put("one", "100%.txt", b"theirs")
    answer = await server.contents("PUT", "buckets/one/100%.txt", body)
    assert answer.status_code == 409
    assert answer.json()["message"].startswith(
        "'buckets/one/100%.txt' was not saved: it was changed or deleted in bucket"
    )
    answer = await server.contents("DELETE", "buckets/one")
    assert answer.status_code == 403
    assert "holds buckets alone" in answer.json()["message"]
    assert (await server.contents("GET", "buckets/one/no", type="file")).status_code == 404


async def test_an_upload_as_jupyterlab_sends_it(
    server: tree_server.Server, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 5 * s3_multipart.MIB)
    data = os.urandom(12 * s3_multipart.MIB + 77)
    pieces = [data[start : start + s3_multipart.MIB] for start in range(0, len(data), s3_multipart.MIB)]
    strict.put("one", "big.bin", b"old")
    for number, piece in enumerate(pieces, start=1):
        chunk = -1 if piece is pieces[-1] else number
        content = base64.b64encode(piece).decode()
        body = {"type": "file", "format": "base64", "content": content, "chunk": chunk, "name": "big.bin"}
        assert strict.buckets["one"]["big.bin"].body == b"old"
        answer = await server.contents("PUT", "buckets/one/big.bin", body)
        assert answer.status_code in {200, 201}, answer.text
        assert not [task for task in strict.uploads.values() if len(task.parts) > 2]
    assert strict.buckets["one"]["big.bin"].body == data
    asked = [line.split(" ")[0] for line in strict.log]
    assert asked == ["HEAD", "CREATE", "PART", "PART", "PART", "COMPLETE"]


async def test_an_upload_over_a_file_that_changes_meanwhile_is_a_conflict(
    server: tree_server.Server, strict: strict_s3.StrictS3
) -> None:
    strict.put("one", "a", b"old")
    body = {"type": "file", "format": "text", "content": "x"}
    await server.contents("PUT", "buckets/one/a", body | {"chunk": 1})
    strict.put("one", "a", b"theirs")
    answer = await server.contents("PUT", "buckets/one/a", body | {"chunk": -1})
    assert answer.status_code == 409
    assert "changed while it was on its way" in answer.json()["message"]
    assert strict.buckets["one"]["a"].body == b"theirs"
    assert strict.uploads == {}


async def test_a_session_of_a_notebook_in_a_bucket_starts_in_the_home(
    server: tree_server.Server, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict.put("one", "n.ipynb", b"{}")
    started = {}

    async def start(**given: Any) -> str:
        started.update(given)
        return "k"

    monkeypatch.setattr(server.app.kernel_manager, "start_kernel", start)
    sessions = server.app.session_manager
    assert await sessions.start_kernel_for_session("s", "buckets/one/n.ipynb", "n.ipynb", "notebook", "python3") == "k"
    assert server.app.kernel_manager.cwd_for_path(started["path"]) == str(server.tree.root_dir)
