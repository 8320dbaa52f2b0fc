"""What a backend must do: the Protocol that the storage service and the reconciler call.

Every method is safe to repeat and to interrupt: a second call finds what the first one left and
completes it. Foreign errors are mapped to `habari.core.errors`: `UnavailableError` when the store does
not answer or is overloaded, `InvalidInputError` when it refuses a name or a policy, `NotFoundError` when
the thing named is not there. Every call ends within `CALL_TIMEOUT_S`.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from habari.core import errors, model, policy

CALL_TIMEOUT_S = 30.0
"""Longest time for one backend call, in seconds: creating a key took 0.8 s with 363 users on SeaweedFS."""


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a kind of store can hold; nothing is offered that it cannot.

    Attributes:
        prefix_grants: Access can be limited to keys that start with a prefix.
        expiring_grants: A grant to users and small groups ends by itself, by a time condition in the policy.
        expiring_everyone: A grant to everyone does so too.
        instant_revoke: After a policy or key is taken back, the next request is refused.
        conditional_writes: `If-Match` and `If-None-Match` are honoured on PUT.
        versions: Buckets can keep deleted and overwritten objects.
    """

    prefix_grants: bool
    expiring_grants: bool
    expiring_everyone: bool
    instant_revoke: bool
    conditional_writes: bool
    versions: bool

    def check(self, grant: model.Grant) -> None:
        """Return if this kind of store can hold the grant; to be asked before it is saved.

        Raises:
            InvalidInputError: If it cannot; the message says what can be done instead.
        """
        if grant.prefix and not self.prefix_grants:
            msg = f"This object store cannot limit a grant to the prefix {grant.prefix!r}; share the whole bucket."
            raise errors.InvalidInputError(msg)
        everyone = grant.grantee.kind is model.GranteeKind.EVERYONE
        if grant.expires_at and not (self.expiring_everyone if everyone else self.expiring_grants):
            whom = "everyone" if everyone else repr(grant.grantee.name)
            msg = (
                f"This object store cannot end a grant to {whom} by itself; "
                "share without an end, or with single users where that is possible."
            )
            raise errors.InvalidInputError(msg)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where users' programs reach the store."""

    url: str
    region: str


class Backend(Protocol):
    """One object store, seen by its administrator."""

    capabilities: Capabilities
    dialect: policy.Dialect
    endpoint: Endpoint

    def principal(self, identity: str) -> str:
        """Return how a bucket policy names an identity."""

    async def check(self) -> None:
        """Return if the store answers and its admin key works.

        Raises:
            UnavailableError: With a sentence that says which of the two failed.
        """

    async def ensure_identity(self, identity: str) -> None:
        """Make the identity exist; it may do nothing until a policy or group allows it."""

    async def create_key(self, identity: str) -> model.AccessKey:
        """Make one more key pair for an identity that exists."""

    async def list_keys(self, identity: str) -> list[str]:
        """Return the access key ids of an identity, sorted; none if the identity does not exist."""

    async def delete_key(self, identity: str, access_key_id: str) -> None:
        """Make a key useless; return also when it is gone already."""

    async def delete_identity(self, identity: str) -> None:
        """Remove an identity with all its keys and memberships; return also when it is gone already."""

    async def ensure_bucket(self, bucket: str, *, versions: bool) -> None:
        """Make the bucket exist, owned by the platform, with versions kept or not."""

    async def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket with everything in it; return also when it is gone already."""

    async def get_policy(self, bucket: str) -> policy.Policy | None:
        """Return the bucket's policy as the store has it."""

    async def set_policy(self, bucket: str, document: policy.Policy | None) -> None:
        """Replace the bucket's whole policy, or remove it."""

    async def ensure_member(self, group: str, identity: str) -> None:
        """Make the group exist and the identity a member of it."""

    async def remove_member(self, group: str, identity: str) -> None:
        """End a membership; return also when there is none."""

    async def get_group_policy(self, group: str) -> policy.Policy | None:
        """Return the policy that all members of the group have."""

    async def set_group_policy(self, group: str, document: policy.Policy | None) -> None:
        """Replace the group's whole policy, or remove it; the group is made if need be."""

    async def first_write(self, bucket: str, key: model.AccessKey) -> None:
        """Prove that a user's key writes to, reads from and deletes in a bucket, and leave nothing behind.

        Raises:
            UnavailableError: With what the store answered, if any of the three is refused.
        """

    async def close(self) -> None:
        """Release connections and threads."""
