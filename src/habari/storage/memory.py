"""A backend that lives in this process: for tests and demonstrations, held to the same contract as real stores.

It evaluates the policies that are really rendered, and `Client` is a small S3 in which they count, so that
what a test of the storage service proves with it is what an object store would do.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from habari.core import errors, model, policy
from habari.storage import base

_PARTITION = "arn:aws:iam::000000000000:user/"


@dataclasses.dataclass
class _Bucket:
    versions: bool = False
    document: policy.Policy | None = None
    objects: dict[str, list[bytes | None]] = dataclasses.field(default_factory=dict)
    """Key to its versions, oldest first; None is a delete marker."""
    uploads: dict[str, tuple[str, dict[int, bytes]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Identity:
    keys: dict[str, str] = dataclasses.field(default_factory=dict)


class Memory:
    """An object store in memory.

    Args:
        now: Returns the current time (aware), against which expiries count; by default the clock's.

    Attributes:
        admin_key: The key that may do everything.
    """

    capabilities = base.Capabilities(
        prefix_grants=True,
        expiring_grants=True,
        expiring_everyone=True,
        instant_revoke=True,
        conditional_writes=True,
        versions=True,
    )
    dialect = policy.Dialect()
    endpoint = base.Endpoint("http://memory.invalid", "us-east-1")

    def __init__(self, *, now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)) -> None:
        """Make an empty store."""
        self.admin_key = model.AccessKey("ADMIN", secrets.token_hex(16))
        self._now = now
        self._identities: dict[str, _Identity] = {}
        self._groups: dict[str, set[str]] = {}
        self._group_documents: dict[str, policy.Policy] = {}
        self._buckets: dict[str, _Bucket] = {}

    def principal(self, identity: str) -> str:
        """Return how a bucket policy names an identity."""
        return f"{_PARTITION}{identity}"

    def client(self, key: model.AccessKey | None) -> Client:
        """Return an S3 client with that key, or of an anonymous visitor."""
        return Client(self, key)

    async def check(self) -> None:
        """Return: there is nothing that could fail to answer."""

    async def ensure_identity(self, identity: str) -> None:
        """Make the identity exist."""
        self._identities.setdefault(identity, _Identity())

    async def create_key(self, identity: str) -> model.AccessKey:
        """Make one more key pair for an identity that exists."""
        key = model.AccessKey(f"MEM{secrets.token_hex(8).upper()}", secrets.token_hex(20))
        self._identity(identity).keys[key.access_key_id] = key.secret_access_key
        return key

    async def list_keys(self, identity: str) -> list[str]:
        """Return the access key ids of an identity, sorted."""
        return sorted(self._identities.get(identity, _Identity()).keys)

    async def delete_key(self, identity: str, access_key_id: str) -> None:
        """Make a key useless."""
        self._identities.get(identity, _Identity()).keys.pop(access_key_id, None)

    async def delete_identity(self, identity: str) -> None:
        """Remove an identity with all its keys and memberships."""
        self._identities.pop(identity, None)
        for members in self._groups.values():
            members.discard(identity)

    async def ensure_bucket(self, bucket: str, *, versions: bool) -> None:
        """Make the bucket exist, with versions kept or not."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            msg = f"The bucket name {bucket!r} is not valid in S3; choose one that S3 allows."
            raise errors.InvalidInputError(msg)
        self._buckets.setdefault(bucket, _Bucket()).versions = versions

    async def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket with everything in it."""
        self._buckets.pop(bucket, None)

    async def get_policy(self, bucket: str) -> policy.Policy | None:
        """Return the bucket's policy."""
        document = self.bucket(bucket).document
        return policy.canonical(document) if document else None

    async def set_policy(self, bucket: str, document: policy.Policy | None) -> None:
        """Replace the bucket's whole policy, or remove it."""
        self.bucket(bucket).document = document

    async def ensure_member(self, group: str, identity: str) -> None:
        """Make the group exist and the identity a member of it."""
        self._identity(identity)
        self._groups.setdefault(group, set()).add(identity)

    async def remove_member(self, group: str, identity: str) -> None:
        """End a membership."""
        self._groups.get(group, set()).discard(identity)

    async def get_group_policy(self, group: str) -> policy.Policy | None:
        """Return the policy that all members of the group have."""
        document = self._group_documents.get(group)
        return policy.canonical(document) if document else None

    async def set_group_policy(self, group: str, document: policy.Policy | None) -> None:
        """Replace the group's whole policy, or remove it."""
        self._groups.setdefault(group, set())
        if document is None:
            self._group_documents.pop(group, None)
        else:
            self._group_documents[group] = document

    async def first_write(self, bucket: str, key: model.AccessKey) -> None:
        """Prove that a user's key writes to, reads from and deletes in a bucket, and leave nothing behind."""
        client, name = self.client(key), f".habari-{secrets.token_hex(8)}"
        try:
            client.put(bucket, name, b"habari")
            client.get(bucket, name)
            client.delete(bucket, name)
        except (errors.NotPermittedError, errors.NotFoundError) as error:
            msg = f"The first write to the bucket {bucket!r} failed: {error}"
            raise errors.UnavailableError(msg) from error
        finally:
            if bucket in self._buckets:
                self._buckets[bucket].objects.pop(name, None)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def bucket(self, bucket: str) -> _Bucket:
        """Return what a bucket holds.

        Raises:
            NotFoundError: If there is none of that name.
        """
        if bucket not in self._buckets:
            msg = f"There is no bucket {bucket!r}; ensure it first."
            raise errors.NotFoundError(msg)
        return self._buckets[bucket]

    def authorize(
        self, key: model.AccessKey | None, action: str, bucket: str, name: str | None = None, *, prefix: str = ""
    ) -> None:
        """Return if the key may do this now.

        Args:
            key: The caller's key; None for an anonymous visitor.
            action: For example `s3:GetObject`.
            bucket: The bucket.
            name: The object's key, or None for the bucket itself.
            prefix: The prefix of a listing.

        Raises:
            NotPermittedError: If no policy allows it.
            NotFoundError: If the administrator asks for a bucket that is not there.
        """
        if key == self.admin_key:
            self.bucket(bucket)
            return
        identity = self._owner(key)
        resource = f"arn:aws:s3:::{bucket}" if name is None else f"arn:aws:s3:::{bucket}/{name}"
        context = {"s3:prefix": prefix, "aws:CurrentTime": self._now()}
        if identity is not None and bucket in self._buckets:
            own = self._buckets[bucket].document
            named = own["Statement"] if own else []
            mine = [each for each in named if self.principal(identity) in each.get("Principal", {}).get("AWS", [])]
            for group, members in self._groups.items():
                if identity in members and group in self._group_documents:
                    mine += self._group_documents[group]["Statement"]
            if any(allows(each, action, resource, context) for each in mine):
                return
        msg = f"Access to {resource!r} is denied: no policy allows {action} to this key; ask for a grant."
        raise errors.NotPermittedError(msg)

    def _owner(self, key: model.AccessKey | None) -> str | None:
        for name, identity in self._identities.items():
            if key and identity.keys.get(key.access_key_id) == key.secret_access_key:
                return name
        return None

    def _identity(self, identity: str) -> _Identity:
        if identity not in self._identities:
            msg = f"There is no identity {identity!r}; ensure it first."
            raise errors.NotFoundError(msg)
        return self._identities[identity]


class Client:
    """What a program with one key can do with objects; every call is authorized anew.

    Args:
        store: The object store.
        key: The key; None for an anonymous visitor.
    """

    def __init__(self, store: Memory, key: model.AccessKey | None) -> None:
        """Keep both."""
        self._store = store
        self._key = key

    def put(self, bucket: str, key: str, body: bytes, *, only_new: bool = False) -> None:
        """Write an object; with `only_new`, ConflictError if there is one."""
        self._store.authorize(self._key, "s3:PutObject", bucket, key)
        held = self._store.bucket(bucket)
        history = held.objects.setdefault(key, [])
        if only_new and history and history[-1] is not None:
            msg = f"The object {key!r} exists in the bucket {bucket!r}."
            raise errors.ConflictError(msg)
        if not held.versions:
            history.clear()
        history.append(body)

    def get(self, bucket: str, key: str) -> bytes:
        """Return an object's content."""
        self._store.authorize(self._key, "s3:GetObject", bucket, key)
        history = self._store.bucket(bucket).objects.get(key)
        if not history or history[-1] is None:
            msg = f"There is no object {key!r} in the bucket {bucket!r}."
            raise errors.NotFoundError(msg)
        return history[-1]

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; its versions stay where the bucket keeps them."""
        self._store.authorize(self._key, "s3:DeleteObject", bucket, key)
        held = self._store.bucket(bucket)
        if held.versions and key in held.objects:
            held.objects[key].append(None)
        else:
            held.objects.pop(key, None)

    def delete_many(self, bucket: str, keys: Iterable[str]) -> list[str]:
        """Delete objects; return the keys that were refused."""
        refused = []
        for key in keys:
            try:
                self.delete(bucket, key)
            except errors.NotPermittedError:
                refused.append(key)
        return refused

    def list_keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys that start with a prefix."""
        self._store.authorize(self._key, "s3:ListBucket", bucket, prefix=prefix)
        objects = self._store.bucket(bucket).objects
        return sorted(key for key, history in objects.items() if key.startswith(prefix) and history[-1] is not None)

    def copy(self, source_bucket: str, source: str, bucket: str, key: str) -> None:
        """Copy an object, read and written with the same key."""
        self.put(bucket, key, self.get(source_bucket, source))

    def history(self, bucket: str, key: str) -> list[bytes]:
        """Return an object's versions, oldest first; for the administrator."""
        self._store.authorize(self._key, "s3:ListBucketVersions", bucket)
        return [each for each in self._store.bucket(bucket).objects.get(key, []) if each is not None]

    def start_upload(self, bucket: str, key: str) -> str:
        """Start a multipart upload; return its id."""
        self._store.authorize(self._key, "s3:PutObject", bucket, key)
        upload = secrets.token_hex(8)
        self._store.bucket(bucket).uploads[upload] = (key, {})
        return upload

    def upload_part(self, bucket: str, key: str, upload: str, number: int, body: bytes) -> str:
        """Upload a part; return its ETag."""
        self._store.authorize(self._key, "s3:PutObject", bucket, key)
        self._store.bucket(bucket).uploads[upload][1][number] = body
        return hashlib.sha256(body).hexdigest()

    def copy_part(self, source_bucket: str, source: str, bucket: str, key: str, upload: str) -> str:
        """Upload a copy of an object as the first part; return its ETag."""
        return self.upload_part(bucket, key, upload, 1, self.get(source_bucket, source))

    def complete_upload(self, bucket: str, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Join the parts."""
        self._store.authorize(self._key, "s3:PutObject", bucket, key)
        _, parts = self._store.bucket(bucket).uploads.pop(upload)
        self.put(bucket, key, b"".join(parts[number] for number in sorted(etags)))

    def presigned_get(self, bucket: str, key: str) -> Callable[[], bytes]:
        """Return what fetches the object later, by whoever holds it, in this key's name."""
        return lambda: self.get(bucket, key)

    def presigned_put(self, bucket: str, key: str) -> Callable[[bytes], None]:
        """Return what writes the object later, by whoever holds it, in this key's name."""
        return lambda body: self.put(bucket, key, body)


def allows(statement: policy.Statement, action: str, resource: str, context: Mapping[str, Any]) -> bool:
    """Return whether a statement allows an action on a resource; a condition that is not known is not met.

    Args:
        statement: A statement that applies to the caller.
        action: For example `s3:GetObject`.
        resource: The ARN of a bucket or object.
        context: `s3:prefix` (text) and `aws:CurrentTime` (aware).
    """
    return (
        statement["Effect"] == "Allow"
        and any(_matches(each, action) for each in statement["Action"])
        and any(_matches(each, resource) for each in statement["Resource"])
        and all(
            _met(test, context.get(key), [values] if isinstance(values, str) else values)
            for test, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _met(test: str, found: Any, values: Iterable[str]) -> bool:
    if test == "StringLike" and isinstance(found, str):
        return any(_matches(value, found) for value in values)
    if test == "DateLessThan" and isinstance(found, datetime.datetime):
        return any(found < datetime.datetime.fromisoformat(value) for value in values)
    return False


def _matches(pattern: str, text: str) -> bool:
    parts = re.split(r"([*?])", pattern)
    known = {"*": ".*", "?": "."}
    return re.fullmatch("".join(known.get(part) or re.escape(part) for part in parts), text, re.DOTALL) is not None
