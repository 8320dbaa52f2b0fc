"""Makes the object store agree with the database: at once for what changed, in a sweep for what drifted.

Every call reads the desired state anew, may be repeated, and may end at any point: what is left is
completed by the next one.
"""

from __future__ import annotations

import asyncio
import bisect
import datetime
import logging
import weakref
from collections.abc import Coroutine

from habari.core import errors, names
from habari.service import database, desired, identities, sealing
from habari.storage import base, reconcile

SWEEP_INTERVAL_S = 60.0
"""Seconds between two sweeps: arbitrary, so that with a few users, what was changed by hand does not last."""

SWEEP_SIZE = 25
"""Buckets, and identities, that one sweep looks at: arbitrary, some 30 ms each, so that an idle platform stays idle."""

_LOG = logging.getLogger(__name__)


class Keeper:
    """Applies the database's desired state to the object store, one bucket and one user at a time.

    Args:
        db: The database.
        backend: The object store.
        sealer: Seals users' keys for the database.
        prefix: The tenant's bucket prefix.
    """

    def __init__(self, db: database.Database, backend: base.Backend, sealer: sealing.Sealer, *, prefix: str) -> None:
        """Keep the parts."""
        self._db = db
        self._backend = backend
        self._sealer = sealer
        self._prefix = prefix
        self._last_bucket = ""
        self._last_user = ""
        self._lost: set[str] = set()
        self._reconciler = reconcile.Reconciler(backend)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def user_lock(self, name: str) -> asyncio.Lock:
        """Return the lock that whoever calls `apply_identity` holds."""
        return self._lock(f"user {name}")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def apply_identity(self, name: str) -> identities.User:
        """Make a user's identity, its keys and its membership at the store what the database says.

        Keys that the database does not know are deleted: they are left from an interrupted run, or made behind
        the platform's back. Where the store lost the user's key, or its secret cannot be read, a new one is made.

        Args:
            name: The user's name; the caller holds `user_lock`.

        Raises:
            NotPermittedError: If the user is retired; the store has none of their keys then.
            UnavailableError: If the store or the database does not answer.
        """
        user = await self._user(name)
        there = set(await self._backend.list_keys(user.identity))
        if strays := there - user.key_ids:
            _LOG.warning("The user %s has %d keys that the database does not know.", name, len(strays))

            async def keep() -> frozenset[str]:
                return (await self._user(name)).key_ids

            await self._reconciler.keys(user.identity, keep)
        if user.retired:
            msg = f"The access of the user {name!r} has been ended; an administrator can restore it."
            raise errors.NotPermittedError(msg)
        if user.key is None or user.key.access_key_id not in there:
            await self._make_key(user)
            user = await self._user(name)
        if not user.joined:
            await self._backend.ensure_member(names.everyone_group(prefix=self._prefix), user.identity)
            await self._db.write(identities.mark_joined, name)
        return user

    async def _user(self, name: str) -> identities.User:
        user = await self._db.read(identities.find, name, self._sealer, self._prefix)
        if user is None:
            msg = f"The user {name!r} is not known here; launch a server first."
            raise errors.NotFoundError(msg)
        return user

    async def _make_key(self, user: identities.User) -> None:
        await self._backend.ensure_identity(user.identity)
        key = await self._backend.create_key(user.identity)
        sealed = self._sealer.seal(key.secret_access_key)
        await self._db.write(identities.keep_key, user.name, key, sealed=sealed, now=now())
        _LOG.info("Made a key for the user %s.", user.name)

    async def make_bucket(self, name: str) -> None:
        """Make a bucket that is open to nobody yet; errors as in `apply_bucket`."""
        async with self._lock(f"bucket {name}"):
            bucket = await self._db.read(desired.bucket, name, self._prefix)
            await self._backend.ensure_bucket(name, versions=bucket.versions)

    async def apply_bucket(self, name: str, *, verify: bool = False, made: bool = False) -> None:
        """Make a bucket and its policy at the store what the database says.

        Args:
            name: The bucket's name in S3.
            verify: Look at the store even if the database knows that it has the newest generation.
            made: The bucket is there, only its policy has to be looked at.

        Raises:
            InvalidInputError: If the store cannot hold the bucket's grants.
            UnavailableError: If the store or the database does not answer.
        """
        async with self._lock(f"bucket {name}"):
            bucket = await self._db.read(desired.bucket, name, self._prefix)
            if not (bucket.pending or verify):
                return
            if not made:
                await self._backend.ensure_bucket(name, versions=bucket.versions)

            async def read() -> reconcile.Desired:
                return (await self._db.read(desired.bucket, name, self._prefix)).policy

            outcome = await self._reconciler.bucket(name, read)
            if outcome.generation > bucket.applied_generation:
                await self._db.write(desired.mark_applied, name, outcome.generation)

    async def apply_everyone(self, *, verify: bool = False) -> None:
        """Make the policy of the store's group of everyone what the database says; arguments as in `apply_bucket`."""
        async with self._lock("group everyone"):
            group = await self._db.read(desired.everyone)
            if not (group.pending or verify):
                return

            async def read() -> reconcile.Desired:
                return (await self._db.read(desired.everyone)).policy

            outcome = await self._reconciler.everyone(names.everyone_group(prefix=self._prefix), read)
            if outcome.generation > group.applied_generation:
                await self._db.write(desired.mark_everyone_applied, outcome.generation)

    async def prove(self, user: identities.User) -> None:
        """Let a user's key write to their personal bucket for the first time.

        Raises:
            UnavailableError: If the store refuses it, or the user has no key.
        """
        if user.key is None:
            msg = f"The user {user.name!r} has no key for the bucket {user.bucket!r}; launch again."
            raise errors.UnavailableError(msg)
        await self._backend.first_write(user.bucket, user.key)
        await self._db.write(desired.mark_proven, user.bucket, now())

    async def run(self) -> None:
        """Sweep over everything once, then over a part each time, until cancelled."""
        size = None
        while True:
            delay_s = SWEEP_INTERVAL_S
            try:
                await self.sweep(size)
                size = SWEEP_SIZE
            except errors.UnavailableError as error:
                _LOG.warning("The sweep over the object store ended early: %s", error)
                delay_s = error.delay_s
            await asyncio.sleep(delay_s)

    async def sweep(self, size: int | None = None) -> None:
        """Look at buckets and identities at the store, and repair what is not as the database says.

        What cannot be repaired is logged, and does not keep the rest from it. Buckets with changes that the store
        does not have, and the group of everyone, are always among those looked at.

        Args:
            size: How many buckets, and how many identities, to look at, where the last sweep ended; None is all.

        Raises:
            UnavailableError: If the store or the database does not answer.
        """
        await self.apply_everyone(verify=True)
        for name in await self._db.read(desired.pending_names):
            await self._try(f"bucket {name}", self.apply_bucket(name))
        for name in following(await self._db.read(desired.names_of_all), self._last_bucket, size):
            await self._try(f"bucket {name}", self.apply_bucket(name, verify=True))
            self._last_bucket = name
        for name in following(await self._db.read(identities.names_of_all), self._last_user, size):
            async with self.user_lock(name):
                await self._try(f"identity of the user {name}", self._sweep_identity(name))
            self._last_user = name

    async def _sweep_identity(self, name: str) -> None:
        user = await self._user(name)
        if not user.lost or user.retired:
            await self.apply_identity(name)
        elif name not in self._lost:
            # Servers that run have the key and go on with it; the next launch replaces it.
            self._lost.add(name)
            _LOG.warning(
                "The key of the user %s was sealed with an encryption key that is not in the secret encryption_keys; "
                "the user gets a new key at the next launch.",
                name,
            )

    async def _try(self, what: str, repair: Coroutine[None, None, object]) -> None:
        try:
            await repair
        except errors.NotPermittedError:
            _LOG.debug("The %s is retired.", what)
        except (errors.InvalidInputError, errors.NotFoundError, errors.ConflictError) as error:
            _LOG.error("The %s cannot be made as it should be: %s", what, error)


def following(names: list[str], last: str, size: int | None) -> list[str]:
    """Return the next names after `last`, starting over at the end.

    Args:
        names: Sorted names.
        last: Where it ended before; it may be gone meanwhile.
        size: How many at most, each once; None is all.
    """
    start = bisect.bisect_right(names, last)
    return (names[start:] + names[:start])[:size]


def now() -> datetime.datetime:
    """Return the time (aware)."""
    return datetime.datetime.now(datetime.UTC)
