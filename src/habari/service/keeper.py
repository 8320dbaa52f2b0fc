"""Makes the object store agree with the database: at once for what changed, in a sweep for what drifted.

Every call reads the desired state anew, may be repeated, and may end at any point: what is left is
completed by the next one.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import weakref

from habari.core import errors, names
from habari.service import database, desired, identities, sealing
from habari.storage import base, reconcile

SWEEP_INTERVAL_S = 60.0
"""Seconds between two sweeps: arbitrary, short enough that a policy overwritten by hand does not last."""

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
        the platform's back. Where the store lost the user's key, a new one is made.

        Args:
            name: The user's name; the caller holds `user_lock`.

        Raises:
            NotPermittedError: If the user is retired; the store has none of their keys then.
            UnavailableError: If the store or the database does not answer.
        """
        user = await self._user(name)
        known = await self._db.read(identities.known_keys, name)
        there = set(await self._backend.list_keys(user.identity))
        if there - known:
            _LOG.warning("The user %s has %d keys that the database does not know.", name, len(there - known))
            await self._reconciler.keys(user.identity, lambda: self._db.read(identities.known_keys, name))
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

    async def apply_bucket(self, name: str, *, verify: bool = False) -> None:
        """Make a bucket and its policy at the store what the database says.

        Args:
            name: The bucket's name in S3.
            verify: Look at the store even if the database knows that it has the newest generation.

        Raises:
            InvalidInputError: If the store cannot hold the bucket's grants.
            UnavailableError: If the store or the database does not answer.
        """
        async with self._lock(f"bucket {name}"):
            bucket = await self._db.read(desired.bucket, name, self._prefix)
            if not (bucket.pending or verify):
                return
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
        """Let a user's key write to their personal bucket, unless it has done so before.

        Raises:
            UnavailableError: If the store refuses it.
        """
        bucket = await self._db.read(desired.bucket, user.bucket, self._prefix)
        if user.key is None or bucket.proven:
            return
        await self._backend.first_write(user.bucket, user.key)
        await self._db.write(desired.mark_proven, user.bucket, now())

    async def run(self) -> None:
        """Sweep again and again, until cancelled."""
        while True:
            delay_s = SWEEP_INTERVAL_S
            try:
                await self.sweep()
            except errors.UnavailableError as error:
                _LOG.warning("The sweep over the object store ended early: %s", error)
                delay_s = error.delay_s
            await asyncio.sleep(delay_s)

    async def sweep(self) -> None:
        """Look at every bucket and identity at the store, and repair what is not as the database says.

        What cannot be repaired is logged, and does not keep the rest from it.

        Raises:
            UnavailableError: If the store or the database does not answer.
        """
        await self.apply_everyone(verify=True)
        for name in await self._db.read(desired.bucket_names):
            try:
                await self.apply_bucket(name, verify=True)
            except (errors.InvalidInputError, errors.NotFoundError) as error:
                _LOG.error("The bucket %s cannot be made as it should be: %s", name, error)
        for name in await self._db.read(identities.names_of_all):
            async with self.user_lock(name):
                try:
                    await self.apply_identity(name)
                except errors.NotPermittedError:
                    continue
                except (errors.InvalidInputError, errors.NotFoundError) as error:
                    _LOG.error("The identity of %s cannot be made as it should be: %s", name, error)


def now() -> datetime.datetime:
    """Return the time (aware)."""
    return datetime.datetime.now(datetime.UTC)
