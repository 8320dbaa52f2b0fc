"""Servers that are stopped or killed while something is uploaded leave nothing behind for ever."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
import stat
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import strict_s3
import tree_fixtures
import tree_server
from tornado import web
from tree_fixtures import home, real_bucket, strict, strict_bucket

from habari.server import buckets, disk, lifetime, s3_multipart, tree, unfinished

__all__ = ["home", "real_bucket", "strict"]

MIB = 1024 * 1024
LAB = "import sys; from habari.server import lab; sys.exit(lab.main(sys.argv[1].split(), sys.argv[2:]))"


def hidden_files(folder: Path) -> list[Path]:
    return list(folder.rglob(".~upload-*"))


# Real servers, really killed


class Person:
    """Somebody whose servers are killed in the middle of an upload to the home and to a bucket."""

    def __init__(self, start_server: Any, storage: Any, bucket: buckets.Bucket) -> None:
        self._start = start_server
        self._storage = storage
        self._store = bucket.store
        self.bucket = bucket.view.name
        self.admin = tree_fixtures.admin(self._store.endpoint_url, self._store.keys)
        storage.me |= {
            "bucket": self.bucket,
            "endpoint_url": self._store.endpoint_url,
            "keys": {
                "access_key_id": self._store.keys.access_key_id,
                "secret_access_key": self._store.keys.secret_access_key,
            },
            "buckets": [{"name": self.bucket, "kind": "personal", "access": "write"}],
        }

    def start(self, mode: str, home: Path | None = None) -> Any:
        if mode == "alone":
            variables = {
                "S3_ENDPOINT_URL": self._store.endpoint_url,
                "AWS_ACCESS_KEY_ID": self._store.keys.access_key_id,
                "AWS_SECRET_ACCESS_KEY": self._store.keys.secret_access_key,
            }
            return self._start(variables, "-c", LAB, self.bucket, home=home)
        variables = {"JUPYTERHUB_API_TOKEN": "token-of-ada", "HABARI_STORAGE_URL": self._storage.url}
        if mode == "hub":
            return self._start(variables, home=home)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        variables |= {
            "JUPYTERHUB_API_URL": self._storage.url.replace("/services/storage/", "/hub/api"),
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": "/oauth_callback",
            "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!server=ada/", "access:servers!user=ada"]',
            "JUPYTERHUB_SERVICE_PREFIX": "/",
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/",
            "JUPYTERHUB_USER": "ada",
        }
        return self._start(variables, "-m", "jupyterhub.singleuser", home=home)

    def upload(self, server: Any, path: str, size: int) -> None:
        """Send the first piece of an upload."""
        content = base64.b64encode(bytes(size)).decode()
        body = {"type": "file", "format": "base64", "content": content, "chunk": 1}
        request = urllib.request.Request(
            f"{server.url}api/contents/{path}",
            data=json.dumps(body).encode(),
            method="PUT",
            headers={"Authorization": f"token {server.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status in {200, 201}

    def begin_two_uploads(self, server: Any) -> None:
        self.upload(server, "into-home.bin", 100_000)
        self.upload(server, f"buckets/{self.bucket}/into-bucket.bin", s3_multipart.PART_BYTES + 1)
        until(lambda: len(self.uploads()) == 1)
        assert len(hidden_files(server.home)) == 1

    def uploads(self) -> list[Any]:
        return list(self.admin.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def person(start_server: Any, storage: Any, real_bucket: buckets.Bucket) -> Iterator[Person]:
    made = Person(start_server, storage, real_bucket)
    yield made
    made.admin.close()


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["singleuser", "alone"])
def test_a_server_that_is_stopped_gives_up_its_uploads(person: Person, mode: str) -> None:
    server = person.start(mode)
    person.begin_two_uploads(server)
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 3 * lifetime.CLOSE_S  # with all that Jupyter Server ends
    assert (hidden_files(server.home), person.uploads()) == ([], [])
    assert list(server.home.rglob("unfinished/*")) == []
    assert "Traceback" not in server.log.read_text()


@pytest.mark.s3
def test_the_start_after_a_kill_removes_what_was_left(person: Person) -> None:
    killed = person.start("hub")
    person.begin_two_uploads(killed)
    [gone] = hidden_files(killed.home)
    running = person.start("hub", home=killed.home)
    person.upload(running, "of-another-server.bin", 1)
    killed.process.kill()
    killed.process.wait(10)
    assert (len(hidden_files(killed.home)), len(person.uploads())) == (2, 1)
    person.start("hub", home=killed.home)
    until(lambda: not person.uploads() and not gone.exists())
    assert len(hidden_files(killed.home)) == 1  # that of the server that runs


# What is noted, and what is done with it


@pytest.fixture
def folder(home: Path) -> Iterator[Path]:
    """The folder of notes, in which this process notes what the test begins."""
    found = home.parent / "notes" / "unfinished"
    unfinished.notes.keep_in(found)
    yield found
    unfinished.notes.close()


@pytest.fixture
async def made(folder: Path, strict: strict_s3.StrictS3, home: Path) -> AsyncIterator[tree.Tree]:
    del folder
    result = tree_server.make_tree(home, [strict_bucket(strict, "one")])
    yield result
    await result.close()


def left_behind(folder: Path, *items: unfinished.Item) -> None:
    """Leave items noted by a server that is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(["begun", *item]) + "\n" for item in items)
    (folder / "gone.jsonl").write_text(lines + '["begun", "/torn')


def piece(size: int = 1, chunk: int = 1) -> dict[str, Any]:
    return {"type": "file", "format": "base64", "content": base64.b64encode(bytes(size)).decode(), "chunk": chunk}


def test_a_note_is_its_owners_alone_and_holds_what_is_open(folder: Path) -> None:
    first, second = unfinished.HiddenFile("/h/\udcff\n"), unfinished.Parts("http://s", "b", "k\u00e9y", "id")
    unfinished.notes.end(first)
    assert not folder.exists()
    unfinished.notes.begin(first)
    unfinished.notes.begin(second)
    unfinished.notes.end(first)
    [note] = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(note.stat().st_mode)) == (0o700, 0o600)
    other = unfinished.Notes()
    other.keep_in(folder)
    assert other.take_over() == []  # its server runs
    os.close(unfinished.notes._file or 0)  # as when it is killed
    unfinished.notes._file = None
    assert other.take_over() == other.open() == [second]
    assert not note.exists()
    assert len(list(folder.iterdir())) == 1
    other.end(second)
    other.close()
    assert list(folder.iterdir()) == []


async def test_an_upload_needs_no_note(
    folder: Path, made: tree.Tree, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.write_text("no folder")
    await made.save(piece(chunk=1), "a.bin")
    await made.save(piece(chunk=-1), "a.bin")
    assert (home / "a.bin").read_bytes() == bytes(2)
    assert "cannot be noted" in caplog.text


async def test_what_is_published_or_given_up_is_struck(made: tree.Tree, home: Path, strict: strict_s3.StrictS3) -> None:
    size = s3_multipart.PART_BYTES + 1
    (home / "big").write_bytes(bytes(size))
    await made.rename("big", "buckets/one/big")
    await made.rename("buckets/one/big", "back")
    await made.copy("back", "copy")
    await made.save(piece(size), "buckets/one/up")
    await made.save(piece(chunk=-1), "buckets/one/up")
    await made.create_checkpoint("buckets/one/up")
    (home / "folder").mkdir()
    with pytest.raises(web.HTTPError):
        await made.save(piece(), "no/such/folder")
    await made.save(piece(size), "buckets/one/other")
    await made.uploads.close()  # while the store begins that upload: its answer is waited for
    assert strict.uploads == {}
    assert unfinished.notes.open() == []


async def test_only_its_own_hidden_files_are_removed(made: tree.Tree, folder: Path, home: Path) -> None:
    name = ".~upload-0123456789abcdef"
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    for path in ("real/" + name, "mine.txt", ".~upload-mine"):
        (home / path).write_text("x")
    (home / name).symlink_to("mine.txt")
    paths = [f"link/{name}", "mine.txt", ".~upload-mine", name, f"gone/{name}", f"mine.txt/{name}"]
    left_behind(folder, *(unfinished.HiddenFile(str(home / path)) for path in paths))
    await lifetime.remove(made, unfinished.notes.take_over())
    assert all((home / path).exists() for path in (name, ".~upload-mine", "mine.txt", f"real/{name}"))
    left_behind(folder, unfinished.HiddenFile(str(home / "real" / name)))
    await lifetime.remove(made, unfinished.notes.take_over())
    assert hidden_files(home / "real") == []
    assert unfinished.notes.open() == []


async def test_an_upload_that_cannot_be_reached_stays_noted(
    made: tree.Tree, folder: Path, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("habari.server.s3.RETRY_S", 0.001)
    reached = unfinished.Parts(strict.url, "one", "k", "id")
    elsewhere = unfinished.Parts("http://elsewhere.example", "one", "k", "id")
    not_mine = unfinished.Parts(strict.url, "not-mine", "k", "id")
    left_behind(folder, reached, elsewhere, not_mine)
    status = 503

    async def fail(*_: Any) -> Any:
        return strict_s3.error(status, "SlowDown" if status == 503 else "AccessDenied")

    strict.fault = fail
    items = unfinished.notes.take_over()
    await lifetime.remove(made, items)
    assert unfinished.notes.open() == [reached, elsewhere, not_mine]
    status = 403
    await lifetime.remove(made, items)
    assert unfinished.notes.open() == [elsewhere, not_mine]


async def test_the_end_waits_for_no_store(
    made: tree.Tree, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifetime, "CLOSE_S", 0.3)
    monkeypatch.setattr(made, "log", logging.getLogger("tree"))
    for path in ("a.bin", "buckets/one/b.bin", "buckets/one/c.bin"):
        await made.save(piece(s3_multipart.PART_BYTES + 1), path)
    await until_async(lambda: len(strict.uploads) == 2)
    hangs = asyncio.Event()

    async def hang(_request: Any, verb: str, _key: str) -> Any:
        if verb == "ABORT":
            await hangs.wait()

    strict.fault = hang
    begun = time.monotonic()
    await lifetime.end(made)
    assert time.monotonic() - begun < 2
    assert "2 unfinished uploads are left for the next start" in caplog.text
    hangs.set()
    assert {type(item) for item in unfinished.notes.open()} == {unfinished.Parts}  # that in the home is gone
    with pytest.raises(web.HTTPError, match="the server is stopping"):
        await made.save(piece(), "d.bin")


async def test_a_copy_under_way_at_the_end_leaves_nothing(
    made: tree.Tree, strict: strict_s3.StrictS3, home: Path
) -> None:
    (home / "big").write_bytes(bytes(s3_multipart.PART_BYTES * 2))
    spool = disk.Spool(home / "half")
    held, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(_request: Any, verb: str, _key: str) -> Any:
        if verb == "PART":
            held.set()
            await goes_on.wait()

    strict.fault = hold
    copying = asyncio.create_task(made.copy("big", "buckets/one"))
    await asyncio.wait_for(held.wait(), 10)
    await lifetime.end(made)
    assert (strict.uploads, hidden_files(home), unfinished.notes.open()) == ({}, [], [])
    goes_on.set()
    await asyncio.gather(copying, return_exceptions=True)
    spool.discard()
    assert strict.keys("one") == []


async def until_async(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
