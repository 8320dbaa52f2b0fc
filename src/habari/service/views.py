"""What a user may know of their own storage: where it is, their keys, and their buckets."""

from __future__ import annotations

import datetime

from habari.core import errors, model, policy
from habari.service import database, desired, identities, sealing
from habari.storage import base


class Views:
    """Reads the database for one user at a time; never asks the object store.

    Args:
        db: The database.
        endpoint: Where users' programs reach the store.
        sealer: Opens users' keys.
        prefix: The tenant's bucket prefix.
    """

    def __init__(self, db: database.Database, endpoint: base.Endpoint, sealer: sealing.Sealer, *, prefix: str) -> None:
        """Keep the parts."""
        self._db = db
        self._endpoint = endpoint
        self._sealer = sealer
        self._prefix = prefix

    async def me(self, name: str) -> model.Me:
        """Return a user's store, keys and buckets; never without keys.

        Raises:
            ConflictError: If the user was never ensured to the end.
            NotPermittedError: If the user is retired.
        """
        user = await self._user(name)
        buckets = await self._buckets(user)
        if user.key is None or user.bucket not in {bucket.name for bucket in buckets}:
            raise _never_ensured(name)
        return model.Me(
            user=name,
            bucket=user.bucket,
            endpoint_url=self._endpoint.url,
            region=self._endpoint.region,
            keys=model.Keys(access_key_id=user.key.access_key_id, secret_access_key=user.key.secret_access_key),
            buckets=buckets,
        )

    async def buckets(self, name: str) -> list[model.BucketView]:
        """Return the buckets that a user may use now, sorted by name; raises as `me` does."""
        return await self._buckets(await self._user(name))

    async def _user(self, name: str) -> identities.User:
        user = await self._db.read(identities.find, name, self._sealer, self._prefix)
        if user is None:
            raise _never_ensured(name)
        if user.retired:
            msg = f"The access of the user {name!r} has been ended; an administrator can restore it."
            raise errors.NotPermittedError(msg)
        return user

    async def _buckets(self, user: identities.User) -> list[model.BucketView]:
        reached = await self._db.read(desired.visible_to, user.name, user.groups)
        return merge(reached, user=user.name, groups=user.groups, now=datetime.datetime.now(datetime.UTC))


def merge(
    reached: list[tuple[model.BucketView, model.Grant]], *, user: str, groups: frozenset[str], now: datetime.datetime
) -> list[model.BucketView]:
    """Return each bucket once, with the widest access that its grants give at `now`, sorted by name."""
    shown = {bucket.name: bucket for bucket, _ in reached}
    widest = policy.views(policy.active((grant for _, grant in reached), now), user=user, groups=groups)
    return [
        shown[name].model_copy(update={"access": access, "prefixes": prefixes})
        for name, (access, prefixes) in sorted(widest.items())
    ]


def _never_ensured(name: str) -> errors.ConflictError:
    return errors.ConflictError(
        f"The storage of the user {name!r} has not been made yet; stop the server and launch it again."
    )
