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

PATIENCE_S = 1.0
"""Seconds that a look waits for the source where an older answer can serve."""

KEEP_S = 5.0
"""Seconds for which the keys of a known bucket are used without asking again; a changed key's grace is longer."""


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

    If the source fails or takes longer than `PATIENCE_S`, what was known stays usable and the failure is
    logged; the object store itself decides about access, so an old list shows nothing that was taken away.
    """

    def __init__(self, source: BucketSource) -> None:
        """Keep the source; it is not asked yet."""
        self._source = source
        self._known: dict[str, Bucket] | None = None
        self._known_at = float("-inf")
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def all(self) -> Mapping[str, Bucket]:
        """Return the buckets by name, as they are now.

        Raises:
            PublicError: If the source fails and nothing is known yet.
        """
        if time.monotonic() - self._asked_at > COALESCE_S:
            await self._refresh()
        return self._known or {}

    async def get(self, name: str) -> Bucket:
        """Return one bucket; what is known is good enough for `KEEP_S`, since the store decides about access.

        Raises:
            NotFoundError: If the user has no bucket of that name.
            PublicError: If the source fails and nothing is known yet.
        """
        if self._known is not None and name in self._known and time.monotonic() - self._known_at < KEEP_S:
            return self._known[name]
        known = (await self.all()).get(name)
        if known is None:
            msg = f"No bucket {name!r} is among yours; ask its owner to share it, then look again."
            raise errors.NotFoundError(msg)
        return known

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _refresh(self) -> None:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="list of buckets")
        asking = self._asking
        await asyncio.wait({asking}, timeout=None if self._known is None else PATIENCE_S)
        if asking.done() and (error := asking.exception()) is not None and self._known is None:
            raise error

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._source.buckets()
        except errors.PublicError as exc:
            if self._known is None:
                raise
            _log.warning("The list of buckets cannot be had; the one known before stays in use: %s", exc)
        else:
            self._known = {bucket.view.name: bucket for bucket in found}
            self._known_at = asked_at
        finally:
            self._asking = None
            if self._known is not None:
                self._asked_at = asked_at
