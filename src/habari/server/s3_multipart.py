"""Objects written in parts, and copied on the store's side: nothing is visible before the last step.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
from http import HTTPStatus

from habari.core import errors
from habari.server import s3, s3_errors, s3_sign, s3_xml, unfinished

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
"""Size of the first parts; doubles every thousand parts, so that S3's 10,000 parts carry 5 TiB."""

MAX_COPY_BYTES = 5 * 1024 * MIB
"""Largest object that one CopyObject takes."""

_COPY_PART_BYTES = 512 * MIB
_COPIES_AT_ONCE = 8
_KEPT_HEADERS = (
    "Content-Type",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Expires",
)


class Writer:
    """Writes one object from pieces: one PUT if it is small, else parts that are sent while the next arrive.

    Holds two parts at most. Nothing is visible before `finish`; `abort` leaves nothing behind.

    Args:
        client: Carries the requests.
        bucket: Where to write.
        key: What to write.
        content_type: Stored with it.
        if_match: Publish only over this ETag.
        if_absent: Publish only where no object is.
    """

    def __init__(  # noqa: PLR0913 - the parts of one PUT
        self,
        client: s3.Client,
        bucket: str,
        key: str,
        *,
        content_type: str = "",
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> None:
        """Keep what to write where; nothing is sent."""
        self._client = client
        self._bucket = bucket
        self._key = key
        self._headers = {"Content-Type": content_type or "application/octet-stream"}
        self._if_match = if_match
        self._if_absent = if_absent
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._etags: list[str] = []
        self._sending: asyncio.Task[str] | None = None
        self.size = 0
        self._what = f"Writing {key!r} in bucket {bucket!r}"

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while the part before the last is still on its way."""
        self._buffer += data
        self.size += len(data)
        part = PART_BYTES << (len(self._etags) // 1000)
        while len(self._buffer) >= part:
            body = bytes(memoryview(self._buffer)[:part])
            del self._buffer[:part]
            await self._settle()
            self._sending = asyncio.create_task(self._send_part(body), name=f"part of {self._key}")

    async def finish(self) -> s3.Meta:
        """Publish the object.

        Raises:
            ConflictError: If the condition did not hold; nothing is published then.
        """
        if self._sending is None and self._upload_id is None:
            return await self._client.put(
                self._bucket,
                self._key,
                bytes(self._buffer),
                content_type=self._headers["Content-Type"],
                if_match=self._if_match,
                if_absent=self._if_absent,
            )
        await self._settle()
        if self._buffer:
            self._sending = asyncio.create_task(self._send_part(bytes(self._buffer)), name=f"part of {self._key}")
            self._buffer.clear()
            await self._settle()
        condition = s3.condition(self._if_match, if_absent=self._if_absent)
        etag = await complete(self._client, self._bucket, self._key, self._upload_id or "", self._etags, condition)
        self._upload_id = None
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        return s3.Meta(self.size, etag, now, self._headers["Content-Type"], {})

    async def abort(self) -> None:
        """Give up: the parts sent so far are removed."""
        self._buffer.clear()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None
        if self._upload_id is not None:
            upload_id, self._upload_id = self._upload_id, None
            await abort(self._client, self._bucket, self._key, upload_id)

    async def _settle(self) -> None:
        if self._sending is not None:
            sending, self._sending = self._sending, None
            try:
                self._etags.append(await sending)
            except asyncio.CancelledError:
                sending.cancel()
                raise

    async def _send_part(self, body: bytes) -> str:
        if self._upload_id is None:
            await self._client.refuse_folded(self._bucket, self._key)
            self._upload_id = await create(self._client, self._bucket, self._key, self._headers)
        query = [("partNumber", str(len(self._etags) + 1)), ("uploadId", self._upload_id)]
        answer = await self._client.send("PUT", self._bucket, self._key, query=query, body=body, what=self._what)
        return s3_xml.unquoted(answer.headers.get("ETag", ""))


async def create(client: s3.Client, bucket: str, key: str, headers: dict[str, str]) -> str:
    """Begin a multipart upload and return its id; cancelled, it leaves none."""
    creating = asyncio.create_task(_create(client, bucket, key, headers), name=f"upload of {key}")
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        await asyncio.wait({creating})  # only the store's answer says what is to be aborted
        if creating.exception() is None:
            await abort(client, bucket, key, creating.result())
        raise


async def _create(client: s3.Client, bucket: str, key: str, headers: dict[str, str]) -> str:
    what = f"Beginning to write {key!r} in bucket {bucket!r}"
    answer = await client.send("POST", bucket, key, query=[("uploads", "")], headers=headers, what=what)
    upload_id = s3_xml.parse_single(answer.body)[1].get("UploadId")
    if not upload_id:
        msg = f"{what} failed: the store gave no upload id; try again."
        raise errors.UnavailableError(msg)
    unfinished.notes.begin(_noted(client, bucket, key, upload_id))
    return upload_id


async def abort(client: s3.Client, bucket: str, key: str, upload_id: str) -> None:
    """Remove the parts of an upload that will not be published."""
    what = f"Giving up writing {key!r} in bucket {bucket!r}"
    await client.send("DELETE", bucket, key, query=[("uploadId", upload_id)], what=what, accept=(200, 204, 404))
    unfinished.notes.end(_noted(client, bucket, key, upload_id))


async def complete(  # noqa: PLR0913, PLR0917 - the parts of one request
    client: s3.Client, bucket: str, key: str, upload_id: str, etags: list[str], condition: dict[str, str]
) -> str:
    """Publish a multipart upload and return the object's ETag.

    Raises:
        ConflictError: If the condition did not hold; the parts are removed then.
    """
    what = f"Publishing {key!r} in bucket {bucket!r}"
    answer = await client.send(
        "POST",
        bucket,
        key,
        query=[("uploadId", upload_id)],
        headers={"Content-Type": "application/xml"} | condition,
        body=s3_xml.complete_document(etags),
        what=what,
        accept=(200, 404, 409, 412),
        read_s=s3.SLOW_READ_S,
    )
    # S3 may answer 200 and then fail: the body tells.
    root, fields = s3_xml.parse_single(answer.body)
    if answer.status == HTTPStatus.OK and root == "CompleteMultipartUploadResult":
        unfinished.notes.end(_noted(client, bucket, key, upload_id))
        return s3_xml.unquoted(fields.get("ETag", ""))
    # The answer to an earlier attempt may have been lost.
    if (mine := await client.if_is(bucket, key, _etag_of_parts(etags))) is not None:
        unfinished.notes.end(_noted(client, bucket, key, upload_id))
        return mine.etag
    if answer.status == HTTPStatus.OK:
        raise s3_errors.error(what, HTTPStatus.INTERNAL_SERVER_ERROR, answer.body)
    if s3_errors.code_of(answer.status, answer.body) != "NoSuchUpload":
        await abort(client, bucket, key, upload_id)
    raise s3_errors.lost_race(what, answer.status, answer.body, condition.get("If-Match"))


def _noted(client: s3.Client, bucket: str, key: str, upload_id: str) -> unfinished.Parts:
    return unfinished.Parts(client.store.endpoint_url, bucket, key, upload_id)


async def copy(source: s3.Client, from_: tuple[str, str], to: tuple[str, str], *, size: int, etag: str) -> str:
    """Copy an object inside one store with its metadata, content type and tags, and return the copy's ETag.

    Args:
        source: The store's client; the same keys read and write.
        from_: Bucket and key.
        to: Bucket and key.
        size: Bytes of the source.
        etag: The source's ETag: another version is not copied.

    Raises:
        ConflictError: If the source has changed, or an object is where the copy would be.
    """
    await source.refuse_folded(*to, size=size)
    if size > MAX_COPY_BYTES:
        return await _copy_in_parts(source, from_, to, size=size, etag=etag)
    what = f"Copying {from_[1]!r} in bucket {from_[0]!r} to {to[1]!r} in bucket {to[0]!r}"
    headers = _copy_source(from_, etag) | s3.condition(if_absent=True)
    answer = await source.send("PUT", *to, headers=headers, what=what, accept=(200, 412), read_s=s3.SLOW_READ_S)
    if answer.status != HTTPStatus.OK:
        return await _already_there(source, to, etag, s3_errors.error(what, answer.status, answer.body))
    root, fields = s3_xml.parse_single(answer.body)
    if root != "CopyObjectResult":
        raise s3_errors.error(what, HTTPStatus.INTERNAL_SERVER_ERROR, answer.body)
    return s3_xml.unquoted(fields.get("ETag", ""))


async def _already_there(source: s3.Client, to: tuple[str, str], etag: str, refusal: errors.PublicError) -> str:
    """Return the copy's ETag if it is there, as where the answer to an earlier attempt was lost.

    Raises:
        ConflictError: If another object is there, or none: then the source has changed.
    """
    try:
        found = await source.head(*to)
    except errors.NotFoundError:
        raise refusal from None
    if found.etag == etag:
        return etag
    msg = f"{to[1]!r} in bucket {to[0]!r} was written by somebody else in the meantime; choose another name."
    raise errors.ConflictError(msg)


async def _copy_in_parts(
    source: s3.Client, from_: tuple[str, str], to: tuple[str, str], *, size: int, etag: str
) -> str:
    what = f"Copying {from_[1]!r} in bucket {from_[0]!r} to {to[1]!r} in bucket {to[0]!r}"
    meta = await source.head(*from_)
    kept = {name: meta.headers[name] for name in _KEPT_HEADERS if name in meta.headers}
    kept |= {name: value for name, value in meta.headers.items() if name.lower().startswith("x-amz-meta-")}
    kept |= await _tags(source, from_)
    upload_id = await create(source, *to, headers=kept)
    gate = asyncio.Semaphore(_COPIES_AT_ONCE)

    async def part(number: int, start: int) -> str:
        end = min(start + _COPY_PART_BYTES, size) - 1
        headers = _copy_source(from_, etag) | {"x-amz-copy-source-range": f"bytes={start}-{end}"}
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        async with gate:
            answer = await source.send("PUT", *to, query=query, headers=headers, what=what, read_s=s3.SLOW_READ_S)
        root, fields = s3_xml.parse_single(answer.body)
        if root != "CopyPartResult":
            raise s3_errors.error(what, HTTPStatus.INTERNAL_SERVER_ERROR, answer.body)
        return s3_xml.unquoted(fields.get("ETag", ""))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(part(number, start), name=f"copy part {number} of {to[1]}")
                for number, start in enumerate(range(0, size, _COPY_PART_BYTES), start=1)
            ]
        return await complete(source, *to, upload_id, [task.result() for task in tasks], s3.condition(if_absent=True))
    except BaseExceptionGroup as group_error:
        await abort(source, *to, upload_id)
        raise first_error(group_error) from group_error
    except errors.PublicError:
        with contextlib.suppress(errors.PublicError):
            await abort(source, *to, upload_id)
        raise


async def _tags(source: s3.Client, from_: tuple[str, str]) -> dict[str, str]:
    what = f"Reading the tags of {from_[1]!r} in bucket {from_[0]!r}"
    answer = await source.send("GET", *from_, query=[("tagging", "")], what=what)
    tags = s3_xml.parse_tags(answer.body)
    if not tags:
        return {}
    return {"x-amz-tagging": "&".join(f"{s3_sign.quoted(key)}={s3_sign.quoted(value)}" for key, value in tags)}


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is not itself a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _copy_source(from_: tuple[str, str], etag: str) -> dict[str, str]:
    return {
        "x-amz-copy-source": f"/{from_[0]}/{s3_sign.quoted_key(from_[1])}",
        "x-amz-copy-source-if-match": f'"{etag}"',
    }


def _etag_of_parts(etags: list[str]) -> str:
    """Return the ETag that S3 gives to an object of these parts; empty if a part's ETag is not an MD5."""
    try:
        digests = b"".join(bytes.fromhex(etag) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"
