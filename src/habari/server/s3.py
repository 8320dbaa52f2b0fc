"""A thin asynchronous S3 client: botocore signs, aiohttp carries, expat parses, and keys are opaque.

Every failure is a `PublicError` by the table of `s3_errors`. Reads, listings, unconditional writes and
deletes are repeated after a broken connection or a 5xx; of a conditional write whose answer was lost, it is
found out whether it happened.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import io
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDictProxy

from habari.core import errors
from habari.server import buckets, s3_errors, s3_sign, s3_xml

_ATTEMPTS = 3
RETRY_S = 0.2
"""Seconds before the second attempt, on average; four times that before the third."""
_RETRIED = frozenset((500, 502, 503, 504))
_OFF_LOOP_BYTES = 64 * 1024
"""Bodies larger than this are hashed and parsed in a thread: arbitrary, some 0.3 ms of the event loop."""
CHUNK_BYTES = 1024 * 1024
_CONNECT_S = 10.0
READ_S = 60.0
SLOW_READ_S = 600.0
"""Seconds without a byte from the store before a copy or a completion fails: it works before it answers."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """What the store says of one object.

    Attributes:
        size: Bytes of the whole object.
        etag: Without quotes.
        modified: Aware time of its last write.
        content_type: As stored; empty if the store says nothing.
        headers: The answer's headers.
    """

    size: int
    etag: str
    modified: datetime.datetime
    content_type: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, headers: CIMultiDictProxy[str]) -> Meta:
        """Read an answer's headers."""
        total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "0")
        moment = headers.get("Last-Modified") or headers.get("Date")
        modified = email.utils.parsedate_to_datetime(moment) if moment else datetime.datetime.now(datetime.UTC)
        return cls(
            size=int(total) if total.isdigit() else 0,
            etag=s3_xml.unquoted(headers.get("ETag", "")),
            modified=modified if modified.tzinfo else modified.replace(tzinfo=datetime.UTC),
            content_type=headers.get("Content-Type", ""),
            headers=headers,
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer of the store."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Pool:
    """The connections to all stores; one an event loop, opened at first use, closed by `close`."""

    def __init__(self, *, limit: int = 64) -> None:
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """Return the open session."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept-Encoding"),
                read_bufsize=256 * 1024,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


class Client:
    """Requests to the buckets of one store, with one user's keys.

    Args:
        store: Endpoint, region and keys.
        pool: Connections to use.
    """

    def __init__(self, store: buckets.Store, pool: Pool) -> None:
        self.store = store
        self._pool = pool
        self.server = ""
        """What the store calls itself in its answers; empty before the first."""

    async def head(self, bucket: str, key: str) -> Meta:
        """Return what the store says of an object, without its content."""
        what = f"Looking at {key!r} in bucket {bucket!r}"
        answer = await self.send("HEAD", bucket, key, what=what, accept=(200, 403))
        if answer.status == HTTPStatus.OK:
            return Meta.of(answer.headers)
        # A HEAD has no body to tell a missing grant from refused keys; a GET of one byte has.
        answer = await self.send("GET", bucket, key, headers={"Range": "bytes=0-0"}, what=what, accept=(200, 206, 416))
        return Meta.of(answer.headers)

    async def get(self, bucket: str, key: str) -> tuple[Meta, bytes]:
        """Return an object, whole."""
        answer = await self.send("GET", bucket, key, what=f"Reading {key!r} in bucket {bucket!r}")
        return Meta.of(answer.headers), answer.body

    @contextlib.asynccontextmanager
    async def open(
        self, bucket: str, key: str, headers: Mapping[str, str] | None = None, *, accept: Iterable[int] = (200, 206)
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an object for streaming; leaving the context early drops the connection.

        Args:
            bucket: Its bucket.
            key: Its key.
            headers: Range and conditions.
            accept: Statuses that are no error.

        Raises:
            PublicError: For any other status.
        """
        what = f"Reading {key!r} in bucket {bucket!r}"
        response = await self._exchange("GET", s3_sign.url(self.store, bucket, key), headers or {}, b"", what=what)
        try:
            if response.status not in accept:
                raise s3_errors.error(what, response.status, await response.read())
            yield response
        finally:
            response.close()

    @staticmethod
    async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the bytes of an open object as they come.

        Raises:
            UnavailableError: If the connection breaks before all came.
        """
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as exc:
            msg = f"The object store broke off in the middle of an object ({type(exc).__name__}); try again."
            raise errors.UnavailableError(msg) from exc

    async def put(  # noqa: PLR0913 - the parts of one PUT
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        content_type: str = "",
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Meta:
        """Write an object whole or not at all.

        Args:
            bucket: Its bucket.
            key: Its key.
            body: Its content.
            content_type: Stored with it.
            if_match: Write only over this ETag.
            if_absent: Write only where no object is.

        Returns:
            What is known of the new object without asking again.

        Raises:
            ConflictError: If the condition did not hold.
        """
        what = f"Writing {key!r} in bucket {bucket!r}"
        headers = {"Content-Type": content_type or "application/octet-stream"} | condition(
            if_match, if_absent=if_absent
        )
        await self.refuse_folded(bucket, key, size=len(body))
        answer = await self.send("PUT", bucket, key, headers=headers, body=body, what=what, accept=(200, 404, 412))
        if answer.status != HTTPStatus.OK:
            # The answer to an earlier attempt may have been lost, and aiohttp too repeats without telling.
            mine = await self.if_is(bucket, key, hashlib.md5(body, usedforsecurity=False).hexdigest())
            if mine is None:
                raise s3_errors.lost_race(what, answer.status, answer.body, if_match)
            return mine
        return dataclasses.replace(Meta.of(answer.headers), size=len(body), content_type=content_type)

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Delete one object; one that is gone already is no error.

        Raises:
            ConflictError: If `if_match` is not the object's ETag.
        """
        what = f"Deleting {key!r} in bucket {bucket!r}"
        await self.refuse_folded(bucket, key, size=0)
        answer = await self.send(
            "DELETE", bucket, key, headers=condition(if_match), what=what, accept=(200, 204, 404, 412)
        )
        if answer.status == HTTPStatus.NOT_FOUND and s3_errors.code_of(404, answer.body) == "NoSuchBucket":
            raise s3_errors.error(what, answer.status, answer.body)
        if answer.status == HTTPStatus.PRECONDITION_FAILED:
            with contextlib.suppress(errors.NotFoundError):
                await self.head(bucket, key)
                raise s3_errors.error(what, answer.status, answer.body)

    async def delete_many(self, bucket: str, keys: list[str]) -> list[tuple[str, str]]:
        """Delete up to 1,000 objects.

        Returns:
            Key and the store's code of each that was not deleted.
        """
        plain = [key for key in keys if s3_xml.is_xml_text(key)]
        failed: list[tuple[str, str]] = []
        if plain:
            body = s3_xml.delete_document(plain)
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            headers = {"Content-MD5": _base64(digest), "Content-Type": "application/xml"}
            what = f"Deleting {len(plain):,} objects in bucket {bucket!r}"
            answer = await self.send("POST", bucket, query=[("delete", "")], headers=headers, body=body, what=what)
            failed += s3_xml.parse_delete_errors(answer.body)
        for key in keys:
            if not s3_xml.is_xml_text(key):
                await self.delete(bucket, key)
        return [(key, code) for key, code in failed if code != "NoSuchKey"]

    async def list_page(
        self, bucket: str, prefix: str, *, delimiter: str = "/", token: str | None = None, limit: int = 1000
    ) -> bytes:
        """Return one page of a listing, unparsed."""
        query = [("list-type", "2"), ("prefix", prefix), ("encoding-type", "url"), ("max-keys", str(limit))]
        query += [("delimiter", delimiter)] if delimiter else []
        query += [("continuation-token", token)] if token else []
        what = f"Listing {prefix!r} in bucket {bucket!r}" if prefix else f"Listing bucket {bucket!r}"
        return (await self.send("GET", bucket, query=query, what=what)).body

    async def list(self, bucket: str, prefix: str, *, delimiter: str = "/") -> AsyncIterator[s3_xml.Page]:
        """Yield the pages of a listing; the next one is fetched while this one is parsed."""
        fetch: asyncio.Task[bytes] | None = asyncio.create_task(
            self.list_page(bucket, prefix, delimiter=delimiter), name=f"list {bucket}"
        )
        try:
            while fetch is not None:
                body = await fetch
                token = s3_xml.next_token(body)
                fetch = None
                if token is not None:
                    fetch = asyncio.create_task(
                        self.list_page(bucket, prefix, delimiter=delimiter, token=token), name=f"list {bucket}"
                    )
                if len(body) > _OFF_LOOP_BYTES:
                    yield await asyncio.to_thread(s3_xml.parse_page, body, prefix)
                else:
                    yield s3_xml.parse_page(body, prefix)
        finally:
            if fetch is not None:
                fetch.cancel()
                await asyncio.gather(fetch, return_exceptions=True)

    @property
    def is_file_system(self) -> bool:
        """Whether the store keeps folders of its own, as SeaweedFS does: an empty one is listed until it is deleted."""
        return "seaweedfs" in self.server.lower()

    async def refuse_folded(self, bucket: str, key: str, *, size: int = 1) -> None:
        r"""Refuse to write or delete a key that the store would take for another one, or write without content.

        SeaweedFS 4.48 takes `\` for `/`, drops empty segments and a slash at the start, and drops the content
        of a key that ends in a slash.

        Raises:
            InvalidInputError: If it would.
        """
        if not ("\\" in key or "//" in key or key.startswith("/") or (size and key.endswith("/"))):
            return
        if not self.server:
            await self.send("HEAD", bucket, what=f"Looking at bucket {bucket!r}", accept=(200, 301, 400, 403, 404))
        if self.is_file_system:
            msg = (
                f"Bucket {bucket!r} cannot hold the name {key!r}: its store would take it for another one. "
                "Choose a name without a backslash, empty parts and a slash at its end."
            )
            raise errors.InvalidInputError(msg)

    async def if_is(self, bucket: str, key: str, etag: str) -> Meta | None:
        """Return the object if it is already what was to be written, as after a write whose answer was lost."""
        try:
            found = await self.head(bucket, key)
        except errors.NotFoundError:
            return None
        return found if found.etag == etag else None

    async def send(  # noqa: PLR0913 - the parts of one request
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        what: str,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        accept: Iterable[int] = (200, 204, 206),
        read_s: float = READ_S,
        repeat: bool = True,
    ) -> Answer:
        """Send a request and read its whole answer, again after a broken connection or a 5xx if `repeat`.

        Raises:
            PublicError: For a status that is not in `accept`.
        """
        address = s3_sign.url(self.store, bucket, key, query)
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS or not repeat
            try:
                response = await self._exchange(method, address, headers or {}, body, what=what, read_s=read_s)
                async with response:
                    content = await response.read()
            except errors.UnavailableError:
                if last:
                    raise
            except (aiohttp.ClientError, TimeoutError) as exc:
                if last:
                    raise s3_errors.unreachable(what, exc) from exc
            else:
                if response.status in accept:
                    return Answer(response.status, response.headers, content)
                if last or response.status not in _RETRIED:
                    raise s3_errors.error(what, response.status, content)
            await asyncio.sleep(RETRY_S * 4 ** (attempt - 1) * (0.5 + random.random()))  # noqa: S311 - spreads retries
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _exchange(  # noqa: PLR0913 - the parts of one request
        self, method: str, address: str, headers: Mapping[str, str], body: bytes, *, what: str, read_s: float = READ_S
    ) -> aiohttp.ClientResponse:
        large = len(body) > _OFF_LOOP_BYTES
        hashing = asyncio.to_thread(s3_sign.payload_hash, self.store, body) if large else None
        hashed = await hashing if hashing is not None else s3_sign.payload_hash(self.store, body)
        target, signed = s3_sign.sign(self.store, method, address, headers, hashed)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=read_s)
        try:
            response = await self._pool.session().request(
                method,
                target,
                headers=signed,
                data=(io.BytesIO(body) if large else body) or None,
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise s3_errors.unreachable(what, exc) from exc
        self.server = response.headers.get("Server", self.server or "?")
        return response


def condition(if_match: str | None = None, *, if_absent: bool = False) -> dict[str, str]:
    """Return the header of a conditional write: https://datatracker.ietf.org/doc/html/rfc9110#section-13.1."""
    if if_match is not None:
        return {"If-Match": f'"{if_match}"'}
    return {"If-None-Match": "*"} if if_absent else {}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
