"""Makes an object store agree with the grant table: one bucket, the everyone group or one identity's keys at a time.

Called by the storage service after each change, and over everything from time to time. It knows no
database: the desired state comes from a callable that is read inside the lock of the bucket or group, so
the last writer always renders the newest state. It is read once more after writing: where another process
has moved the generation on meanwhile, it starts over. Everything may be repeated, interrupted or run twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from habari.core import errors, model, policy
from habari.storage import base

_log = logging.getLogger(__name__)

ROUNDS = 5
"""Times to start over when the desired state moves or the store does not keep what is written: arbitrary."""


@dataclasses.dataclass(frozen=True)
class Desired:
    """What a bucket's or group's policy shall say.

    Attributes:
        generation: A number that grows with each change of the grants below.
        grants: All grants of the bucket; for the everyone group, those to everyone on any bucket. Expired ones
            are left out by the reconciler.
        members: The identities that a grantee stands for, by their names at the store; none if nobody has one
            yet. Not asked for everyone.
    """

    generation: int
    grants: Sequence[model.Grant]
    members: Callable[[model.Grantee], Iterable[str]] = lambda _: ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What reconciling did.

    Attributes:
        generation: The generation that the store now holds.
        changed: Whether the store had to be written.
    """

    generation: int
    changed: bool


Read = Callable[[], Awaitable[Desired]]
"""Reads the desired state, in a transaction of its own."""


class Reconciler:
    """Writes policies to one store, one at a time for each bucket and group.

    Args:
        backend: The store.
        now: Returns the current time (aware); by default the clock's.
    """

    def __init__(
        self,
        backend: base.Backend,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        """Keep the store and the clock."""
        self._backend = backend
        self._now = now
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def bucket(self, bucket: str, read: Read) -> Outcome:
        """Make the policy of a bucket that exists say what is desired: grants to users and small groups.

        Args:
            bucket: The bucket's name at the store.
            read: Reads the desired state of that bucket.

        Returns:
            The generation that the store holds now, and whether it was written.

        Raises:
            UnavailableError: If the store does not answer, or does not keep what is written.
            InvalidInputError: If the policy is too large for the store.
            NotFoundError: If the store has no such bucket.
        """

        def render(desired: Desired) -> policy.Policy | None:
            def principals(grantee: model.Grantee) -> list[str]:
                return [self._backend.principal(identity) for identity in desired.members(grantee)]

            active = self._held(desired)
            return policy.bucket_policy(active, principals=principals, dialect=self._backend.dialect)

        return await self._agree(
            f"bucket {bucket!r}",
            read,
            render,
            lambda: self._backend.get_policy(bucket),
            lambda document: self._backend.set_policy(bucket, document),
        )

    async def everyone(self, group: str, read: Read) -> Outcome:
        """Make the policy of the group that all identities join say what everyone may do, on any bucket.

        Args:
            group: The group's name at the store; it is made if need be.
            read: Reads the grants to everyone, of all buckets.

        Returns:
            The generation that the store holds now, and whether it was written.

        Raises:
            UnavailableError: If the store does not answer, or does not keep what is written.
            InvalidInputError: If the policy is too large for the store.
        """

        def render(desired: Desired) -> policy.Policy | None:
            return policy.group_policy(self._held(desired), dialect=self._backend.dialect)

        return await self._agree(
            f"group {group!r}",
            read,
            render,
            lambda: self._backend.get_group_policy(group),
            lambda document: self._backend.set_group_policy(group, document),
        )

    async def keys(self, identity: str, keep: Callable[[], Awaitable[Iterable[str]]]) -> list[str]:
        """Delete every key of an identity that is not to be kept: rotated ones, and those a user made alone.

        Args:
            identity: The identity's name at the store.
            keep: Reads the access key ids to keep, after those at the store are listed, so that a key made and
                saved meanwhile stays.

        Returns:
            The ids of the keys that were deleted.
        """
        async with self._lock(f"identity {identity!r}"):
            found = await self._backend.list_keys(identity)
            wanted = set(await keep())
            surplus = [each for each in found if each not in wanted]
            for access_key_id in surplus:
                await self._backend.delete_key(identity, access_key_id)
        if surplus:
            _log.info("Deleted %d keys of identity %s that are not in use", len(surplus), identity)
        return surplus

    def _held(self, desired: Desired) -> list[model.Grant]:
        """Return the active grants; one that this kind of store cannot hold is left out, so that it opens nothing."""
        held = []
        for grant in policy.active(desired.grants, self._now()):
            try:
                self._backend.capabilities.check(grant)
            except errors.InvalidInputError as error:
                _log.warning("A grant on bucket %s is left out: %s", grant.bucket, error)
            else:
                held.append(grant)
        return held

    async def _agree(
        self,
        what: str,
        read: Read,
        render: Callable[[Desired], policy.Policy | None],
        get: Callable[[], Awaitable[policy.Policy | None]],
        put: Callable[[policy.Policy | None], Awaitable[None]],
    ) -> Outcome:
        changed = False
        async with self._lock(what):
            desired = await read()
            for _ in range(ROUNDS):
                document = render(desired)
                if not _same(await get(), document):
                    await put(document)
                    changed = True
                    _log.info("Wrote the policy of %s, generation %d", what, desired.generation)
                    if not _same(await get(), document):
                        continue
                newest = await read()
                if newest.generation == desired.generation:
                    return Outcome(desired.generation, changed)
                desired = newest
        msg = (
            f"The object store does not keep the policy of {what}: expected that of generation {desired.generation}, "
            f"found another after {ROUNDS} rounds. Something else writes policies there; find and stop it."
        )
        raise errors.UnavailableError(msg)

    @contextlib.asynccontextmanager
    async def _lock(self, what: str) -> AsyncIterator[None]:
        """Hold the lock of one name; it is forgotten once nobody wants it."""
        lock, waiting = self._locks.get(what, (asyncio.Lock(), 0))
        self._locks[what] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[what]
            if waiting == 1:
                del self._locks[what]
            else:
                self._locks[what] = (lock, waiting - 1)


def _same(one: policy.Policy | None, other: policy.Policy | None) -> bool:
    return (one and policy.canonical(one)) == (other and policy.canonical(other))
