"""The client: retries, lost answers, broken connections, errors by one table."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import strict_s3
import tree_server
from aiohttp import web
from tree_fixtures import strict

from habari.core import errors, model
from habari.server import s3, s3_errors, s3_multipart, s3_sign, s3_xml

__all__ = ["strict"]


@pytest.fixture
async def client(strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[s3.Client]:
    monkeypatch.setattr(s3, "RETRY_S", 0.001)
    pool = s3.Pool()
    yield s3.Client(tree_server.store(strict.url, model.AccessKey("AK", "SK")), pool)
    await pool.close()


class Fail:
    """Fail the first `times` requests of one kind; `after` lets the store act first."""

    def __init__(self, store: strict_s3.StrictS3, verb: str, times: int = 1, *, after: bool = False) -> None:
        self.store, self.verb, self.left, self.after, self.status = store, verb, times, after, 0
        store.fault = self

    async def __call__(self, request: web.Request, verb: str, _key: str) -> Any:
        if verb != self.verb or not self.left:
            return None
        self.left -= 1
        if self.after:
            self.store.fault = None
            await self.store._handle(request)
            self.store.fault = self
        if self.status:
            return strict_s3.error(self.status, "InternalError")
        assert request.transport
        request.transport.abort()
        return web.Response()


@pytest.mark.parametrize("status", [0, 500, 503])
async def test_reads_and_writes_are_repeated(client: s3.Client, strict: strict_s3.StrictS3, status: int) -> None:
    Fail(strict, "PUT", 2).status = status
    await client.put("one", "a", b"a")
    for verb, act in (("GET", client.get), ("HEAD", client.head), ("DELETE", client.delete)):
        Fail(strict, verb, 2).status = status
        await act("one", "a")
    await client.put("one", "a", b"a")
    Fail(strict, "GET", 10).status = status
    with pytest.raises(errors.UnavailableError, match="Reading 'a' in bucket 'one' failed"):
        await client.get("one", "a")


async def test_a_conditional_write_whose_answer_was_lost_is_found(
    client: s3.Client, strict: strict_s3.StrictS3
) -> None:
    Fail(strict, "PUT", after=True)
    meta = await client.put("one", "a", b"mine", if_absent=True)
    assert meta.etag == hashlib.md5(b"mine").hexdigest()  # noqa: S324 - what S3 does
    Fail(strict, "PUT", after=True)
    await client.put("one", "a", b"mine 2", if_match=meta.etag)
    assert strict.buckets["one"]["a"].body == b"mine 2"


async def test_another_ones_write_is_still_a_conflict(client: s3.Client, strict: strict_s3.StrictS3) -> None:
    strict.put("one", "a", b"theirs")
    Fail(strict, "PUT")
    with pytest.raises(errors.ConflictError, match="changed by somebody else in the meantime"):
        await client.put("one", "a", b"mine", if_absent=True)
    assert strict.buckets["one"]["a"].body == b"theirs"


async def test_a_completion_whose_answer_was_lost_is_found(
    client: s3.Client, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 5 * s3_multipart.MIB)
    writer = s3_multipart.Writer(client, "one", "a", if_absent=True)
    await writer.write(b"x" * 11 * s3_multipart.MIB)
    Fail(strict, "COMPLETE", after=True)
    meta = await writer.finish()
    assert (meta.etag, meta.size) == (strict.buckets["one"]["a"].etag, 11 * s3_multipart.MIB)


async def test_parts_that_lose_the_race_leave_nothing(
    client: s3.Client, strict: strict_s3.StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 5 * s3_multipart.MIB)
    writer = s3_multipart.Writer(client, "one", "a", if_absent=True)
    await writer.write(b"x" * 6 * s3_multipart.MIB)
    strict.put("one", "a", b"theirs")
    with pytest.raises(errors.ConflictError):
        await writer.finish()
    await writer.abort()
    assert strict.buckets["one"]["a"].body == b"theirs"
    assert strict.uploads == {}


async def test_a_download_that_breaks_off_is_an_error(client: s3.Client, strict: strict_s3.StrictS3) -> None:
    async def broken(request: web.Request, verb: str, _key: str) -> Any:
        if verb != "GET":
            return None
        response = web.StreamResponse(headers={"Content-Length": "1000", "ETag": '"x"'})
        await response.prepare(request)
        await response.write(b"half")
        request.transport.abort()
        return response

    strict.fault = broken

    async def download() -> None:
        async with client.open("one", "a") as response:
            async for _ in client.chunks(response):
                pass

    with pytest.raises(errors.UnavailableError, match="broke off in the middle"):
        await download()


async def test_a_store_that_does_not_answer(client: s3.Client) -> None:
    gone = s3.Client(tree_server.store("http://127.0.0.1:1", model.AccessKey("AK", "SK")), client._pool)
    with pytest.raises(errors.UnavailableError, match="the object store does not answer"):
        await gone.get("one", "a")


async def test_long_listings_come_whole_and_in_order(client: s3.Client, strict: strict_s3.StrictS3) -> None:
    keys = sorted(f"k {number:04}+é" for number in range(2345))
    for key in keys:
        strict.put("one", key)
    strict.page_size = 100
    assert [entry.key async for page in client.list("one", "") for entry in page.objects] == keys


async def test_a_listing_left_early_stops(client: s3.Client, strict: strict_s3.StrictS3) -> None:
    for number in range(30):
        strict.put("one", str(number))
    strict.page_size = 10
    pages = client.list("one", "")
    async for _ in pages:
        break
    await pages.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("list ")]


async def test_keys_that_xml_cannot_carry_are_deleted_too(client: s3.Client, strict: strict_s3.StrictS3) -> None:
    keys = ["a\x01b", "c\rd", "e\nf", "<&>\"'", "plain"]
    for key in keys:
        strict.put("one", key)
    assert await client.delete_many("one", keys) == []
    assert strict.keys("one") == []


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (404, "NoSuchKey", errors.NotFoundError, "no such object"),
        (404, "NoSuchBucket", errors.NotFoundError, "no such bucket"),
        (403, "AccessDenied", errors.NotPermittedError, "ask the bucket's owner"),
        (403, "SignatureDoesNotMatch", errors.NotPermittedError, "your keys were refused"),
        (403, "InvalidAccessKeyId", errors.NotPermittedError, "your keys were refused"),
        (403, "QuotaExceeded", errors.NotPermittedError, "the bucket is full"),
        (412, "PreconditionFailed", errors.ConflictError, "changed by somebody else"),
        (400, "KeyTooLongError", errors.InvalidInputError, "longer than the store takes"),
        (503, "SlowDown", errors.UnavailableError, "the store is busy"),
        (500, "InternalError", errors.UnavailableError, "the store failed"),
        (418, "Teapot", errors.UnavailableError, "the store failed"),
    ],
)
def test_errors_by_one_table(status: int, code: str, kind: type[errors.PublicError], says: str) -> None:
    error = s3_errors.error("Reading 'a' in bucket 'b'", status, f"<Error><Code>{code}</Code></Error>".encode())
    assert isinstance(error, kind)
    assert (error.code, error.status) == (code, kind.status)
    assert str(error).startswith("Reading 'a' in bucket 'b' failed: ")
    assert says in str(error)
    assert code in str(error)


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey"), (412, "PreconditionFailed")])
def test_an_answer_without_a_body_is_told_by_its_status(status: int, code: str) -> None:
    assert s3_errors.error("x", status).code == code


def test_xml_that_is_none_is_an_error() -> None:
    with pytest.raises(errors.UnavailableError, match="XML that cannot be read"):
        s3_xml.parse_page(b"<ListBucketResult><Contents>")
    with pytest.raises(errors.UnavailableError, match="expected ListBucketResult"):
        s3_xml.parse_page(b"<html></html>")
    with pytest.raises(errors.UnavailableError, match="cut a listing short"):
        s3_xml.next_token(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")


def test_over_tls_a_body_is_not_hashed() -> None:
    key = model.AccessKey("AK", "SK")
    assert s3_sign.payload_hash(tree_server.store("https://s3.example.org", key), b"x") == s3_sign.UNSIGNED
    assert (
        s3_sign.payload_hash(tree_server.store("http://s3.example.org", key), b"x") == hashlib.sha256(b"x").hexdigest()
    )


def test_a_key_is_not_normalised_in_the_address() -> None:
    store = tree_server.store("http://h:1/", model.AccessKey("AK", "SK"))
    address = s3_sign.url(store, "b", "./a//../%41 é+", [("x", "a b")])
    assert address == "http://h:1/b/./a//../%2541%20%C3%A9%2B?x=a%20b"
    target, headers = s3_sign.sign(store, "GET", address, {}, s3_sign.EMPTY_SHA256)
    assert str(target) == address
    assert "SK" not in str(headers)
