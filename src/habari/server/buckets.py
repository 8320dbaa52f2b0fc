"""Which buckets the user has, and how each is reached; refreshed at each look, so that a new grant shows at once.

The tree asks a `BucketSource`, which the environment of the server provides.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from habari.core import errors, model

_log = logging.getLogger(__name__)

COALESCE_S = 1.0
"""Seconds for which one answer of the source serves every look: half of the two seconds promised to users."""


@dataclasses.dataclass(frozen=True)
class Store:
    """An S3 endpoint and the keys to sign with.

    Attributes:
        endpoint_url: `http(s)://HOST[:PORT]`, addressed path-style.
        region: Region to sign for.
        keys: The user's own key pair.
        session_token: Token of temporary keys.
    """

    endpoint_url: str
    region: str
    keys: model.AccessKey
    session_token: str | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket as the user sees it, and the store that holds it."""

    view: model.BucketView
    store: Store

    def may_write(self, key: str) -> bool:
        """Return whether the grants let the user write this key, as far as the tree was told."""
        if self.view.access is not model.Access.WRITE:
            return False
        return not self.view.prefixes or any(key.startswith(prefix) for prefix in self.view.prefixes)


class BucketSource(Protocol):
    """Says which buckets the user has now."""

    async def buckets(self) -> Sequence[Bucket]:
        """Return the user's buckets, in the order in which to show them.

        Raises:
            PublicError: If the answer cannot be had; `UnavailableError` if it may be had later.
        """


class Roots:
    """The buckets of a `BucketSource`: one question at a time, one answer for every look within `COALESCE_S`.

    If the source fails, what was known stays usable and the failure is logged; the object store itself
    decides about access, so an old list shows nothing that was taken away.
    """

    def __init__(self, source: BucketSource) -> None:
        self._source = source
        self._known: dict[str, Bucket] | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def all(self) -> Mapping[str, Bucket]:
        """Return the buckets by name.

        Raises:
            PublicError: If the source fails and nothing is known yet.
        """
        async with self._lock:
            if self._known is None or time.monotonic() - self._asked_at > COALESCE_S:
                await self._refresh()
            assert self._known is not None  # noqa: S101 - _refresh raises otherwise
            return self._known

    async def get(self, name: str) -> Bucket:
        """Return one bucket.

        Raises:
            NotFoundError: If the user has no bucket of that name.
            PublicError: If the source fails and nothing is known yet.
        """
        known = (await self.all()).get(name)
        if known is None:
            msg = f"No bucket {name!r} is among yours; ask its owner to share it, then look again."
            raise errors.NotFoundError(msg)
        return known

    async def _refresh(self) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._source.buckets()
        except errors.PublicError:
            if self._known is None:
                raise
            _log.warning("The list of buckets cannot be had; the one known before stays in use.", exc_info=True)
        else:
            self._known = {bucket.view.name: bucket for bucket in found}
        self._asked_at = asked_at
