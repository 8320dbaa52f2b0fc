"""Where a server learns of its keys and buckets: the storage service, or a list that a person gave.

The storage service is asked with the server's own JupyterHub token. No redirect is followed, so that the
token reaches nobody else, and nothing that is raised holds the token or a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar
from xml.parsers import expat

import aiohttp
import pydantic

from habari.core import errors, model
from habari.server import buckets, environment, s3

_T = TypeVar("_T")

_ERRORS: dict[int, type[errors.PublicError]] = {
    401: errors.NotAuthenticatedError,
    403: errors.NotPermittedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
}

_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries, the last one again and again, while the storage service is being restarted."""


class StorageService:
    """The storage service as one user's server sees it.

    Args:
        url: Its address with the prefix, for example `http://127.0.0.1:8081/services/storage/`.
        token: The server's JupyterHub token.
        timeout_s: Seconds for one request.
        total_s: Seconds for all tries of one question.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 5.0, total_s: float = 20.0) -> None:
        """Keep the address and the token; nothing is sent."""
        self._url = url.rstrip("/") + "/api/v1/"
        self._token = token
        self._timeout_s = timeout_s
        self._total_s = total_s

    async def me(self) -> model.Me:
        """Return the user's keys, endpoint and buckets.

        Raises:
            PublicError: If the storage service refuses (the class tells why) or does not answer in time.
        """
        return await self._ask("me", model.Me.model_validate_json)

    async def my_buckets(self) -> list[model.BucketView]:
        """Return the buckets that the user may see now.

        Raises:
            PublicError: If the storage service refuses (the class tells why) or does not answer in time.
        """
        return await self._ask("me/buckets", pydantic.TypeAdapter(list[model.BucketView]).validate_json)

    async def _ask(self, path: str, parse: Callable[[bytes], _T]) -> _T:
        address = self._url + path
        body = await self._get(address)
        try:
            return parse(body)
        except pydantic.ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, each["loc"])) for each in error.errors()}))
            msg = (
                f"The storage service's answer at {address} is not understood (fields: {fields or 'none'}); "
                "this server and the platform are probably of different versions."
            )
            raise errors.UnavailableError(msg) from None  # the cause's text holds the answer, and so the keys

    async def _get(self, address: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        headers = {"Authorization": f"token {self._token}", "Accept": "application/json"}
        failed: errors.UnavailableError | None = None
        try:
            async with (
                asyncio.timeout(self._total_s),
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            ):
                for delay_s in itertools.chain(_DELAYS_S, itertools.repeat(_DELAYS_S[-1])):
                    try:
                        return await _get_once(session, address)
                    except errors.UnavailableError as error:
                        failed = error
                    await asyncio.sleep(delay_s)
        except TimeoutError as error:
            msg = f"The storage service does not answer at {address} within {self._total_s:g} seconds; try again later."
            raise failed or errors.UnavailableError(msg) from error
        raise AssertionError  # pragma: no cover - the loop ends by an answer or by the timeout


class HubSource:
    """The buckets that the storage service names, reached with the keys that the server has now (`BucketSource`)."""

    def __init__(self, service: StorageService) -> None:
        """Keep the service; nothing is sent."""
        self._service = service

    async def buckets(self) -> list[buckets.Bucket]:
        """Return the user's buckets, in the service's order.

        Raises:
            PublicError: As `StorageService.my_buckets`.
        """
        store = environment.store(os.environ)
        return [buckets.Bucket(view, store) for view in await self._service.my_buckets()]


class NamedSource:
    """Buckets that a person named, reached with the keys in the environment (`BucketSource`)."""

    def __init__(self, names: Sequence[str]) -> None:
        """Keep the names."""
        self._names = tuple(names)

    async def buckets(self) -> list[buckets.Bucket]:
        """Return the buckets named; whether the keys may read or write them, the object store decides."""
        return _unchecked(self._names)


class ListedSource:
    """The buckets that the object store lists for the keys in the environment (`BucketSource`)."""

    async def buckets(self) -> list[buckets.Bucket]:
        """Return the buckets listed, by name; what the keys may do in them, the object store decides.

        Raises:
            PublicError: If the object store does not answer, or does not let these keys list.
        """
        store = environment.store(os.environ)
        pool = s3.Pool()
        try:
            answer = await s3.Client(store, pool).send("GET", "", what=f"Listing the buckets of {store.endpoint_url}")
        except errors.NotPermittedError as error:
            msg = f"{error} Name the buckets instead: habari lab --bucket NAME"
            raise errors.NotPermittedError(msg) from error
        finally:
            await pool.close()
        return _unchecked(_bucket_names(answer.body))


def _bucket_names(body: bytes) -> list[str]:
    """Return the names in an answer to ListBuckets.

    Its shape: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListBuckets.html
    """
    names: list[str] = []
    path: list[str] = []
    not_a_list = errors.UnavailableError(
        "The object store's answer is no list of buckets; check that the endpoint is an S3 endpoint."
    )

    def start(tag: str, _attributes: object) -> None:
        path.append(tag)
        if path[0] != "ListAllMyBucketsResult":
            raise not_a_list
        if path[-2:] == ["Bucket", "Name"]:
            names.append("")

    def text(part: str) -> None:
        if path[-2:] == ["Bucket", "Name"]:
            names[-1] += part

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _tag: path.pop()
    try:
        parser.Parse(body, True)  # noqa: FBT003 - expat's own signature
    except expat.ExpatError as error:
        raise not_a_list from error
    return sorted(names)


def _unchecked(names: Iterable[str]) -> list[buckets.Bucket]:
    store = environment.store(os.environ)
    views = [model.BucketView(name=name, kind=model.BucketKind.SHARED, access=model.Access.WRITE) for name in names]
    return [buckets.Bucket(view, store) for view in views]


async def _get_once(session: aiohttp.ClientSession, address: str) -> bytes:
    try:
        async with session.get(address, allow_redirects=False) as response:
            body = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        msg = f"The storage service does not answer at {address} ({type(error).__name__}); try again later."
        raise errors.UnavailableError(msg) from error
    if status == 200:  # noqa: PLR2004 - HTTP's OK
        return body
    said = f"The storage service answered {status} at {address}: {_message(body)}"
    if status >= 500:  # noqa: PLR2004 - HTTP's server errors
        raise errors.UnavailableError(said)
    raise _ERRORS.get(status, errors.PublicError)(said)


def _message(body: bytes) -> str:
    with contextlib.suppress(pydantic.ValidationError):
        return model.ErrorBody.model_validate_json(body).error.message
    return "expected its JSON, found something else."
