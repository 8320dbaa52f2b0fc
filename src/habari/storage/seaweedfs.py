"""SeaweedFS as a backend: its IAM API and S3 API, both on the S3 port, through boto3 in threads of its own.

Called by the storage service. What was learned by trying, on version 4.48, and is held by the contract suite:

- A bucket's policy and the policy of a group that the user is in are a union; both take the same action names, and
  both count from the next request on.
- Only bucket policies know the time: a group's policy with an expiry allows nothing, so it is not offered.
- An ACL that a writer puts on an object opens it to nobody.
- A user can make and delete keys of its own identity, and nothing in SeaweedFS forbids it. Such a key may do what
  the identity may do, no more; `list_keys` shows it, so `reconcile.reconcile_keys` removes it.
- A CreateBucket while another bucket gets its first object can stop the whole store for good: listing collections
  takes a read lock twice (`Topology.ListCollections`), and making one waits between the two. So buckets are made, given
  their first object and deleted one after another. Users cannot make buckets.
- The IAM API slows with the number of identities, so grants to users are written to bucket policies.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
import botocore.config
import botocore.exceptions

from habari.core import errors, model, policy
from habari.storage import base

_T = TypeVar("_T")

_THREADS = 16
"""Calls at once: arbitrary, because SeaweedFS's IAM API takes one at a time anyway."""

_POLICY_NAME = "grants"
_CONFIG = botocore.config.Config(
    connect_timeout=5,
    read_timeout=25,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=_THREADS,
    s3={"addressing_style": "path"},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)

_Reason = tuple[type[errors.PublicError], str]
_REFUSED: _Reason = (
    errors.UnavailableError,
    "it refused the key; has the key been replaced?",
)
_ERRORS: dict[str, _Reason] = {
    "NoSuchEntity": (errors.NotFoundError, "it knows no such identity, key or group; ensure it first."),
    "NoSuchBucket": (errors.NotFoundError, "it has no such bucket; ensure it first."),
    "InvalidBucketName": (errors.InvalidInputError, "it does not take the name; choose one that S3 allows."),
    "MalformedPolicy": (errors.InvalidInputError, "it does not understand the policy; a mistake in Habari."),
    "MalformedPolicyDocument": (errors.InvalidInputError, "it does not understand the policy; a mistake in Habari."),
    "PolicyTooLarge": (errors.InvalidInputError, "the policy is too large; share with a group instead of many users."),
    "BucketAlreadyExists": (errors.ConflictError, "it belongs to somebody else there; choose another name."),
    "BucketNotEmpty": (errors.ConflictError, "something was written meanwhile; try again."),
    "AccessDenied": _REFUSED,
    "403": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
}
"""What the store's error codes mean for whoever called; every other one is temporary."""


class SeaweedFS:
    """A SeaweedFS whose S3 port serves the IAM API too, administered with the key it was started with.

    Args:
        url: Its S3 endpoint.
        key: Its admin's key.
        region: Region name that requests are signed for.
        public_url: The endpoint as users' programs reach it; by default `url`.
    """

    capabilities = base.Capabilities(
        prefix_grants=True,
        expiring_grants=True,
        expiring_everyone=False,
        instant_revoke=True,
        conditional_writes=True,
        versions=True,
    )
    dialect = policy.Dialect()

    def __init__(
        self, url: str, key: model.AccessKey, *, region: str = "us-east-1", public_url: str | None = None
    ) -> None:
        """Make the clients; nothing is sent."""
        self.endpoint = base.Endpoint(public_url or url, region)
        self._url = url
        self._session = boto3.session.Session()
        self._making = threading.Lock()
        self._s3 = self._client("s3", key)
        self._iam = self._client("iam", key)
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="seaweedfs")
        self._lane = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="seaweedfs-buckets")

    def principal(self, identity: str) -> str:
        """Return how a bucket policy names an identity."""
        return f"arn:aws:iam::000000000000:user/{identity}"

    async def check(self) -> None:
        """Return if the store answers and its admin key works."""
        # Only the administrator is told that a bucket is not there; everybody else gets 403.
        nowhere = f"check-{secrets.token_hex(8)}"
        await self._run("The check of the object store", lambda: _ignoring(self._s3.head_bucket, "404", Bucket=nowhere))

    async def ensure_identity(self, identity: str) -> None:
        """Make the identity exist."""
        await self._run(
            f"Making the identity {identity!r}",
            lambda: _ignoring(self._iam.create_user, "EntityAlreadyExists", UserName=identity),
        )

    async def create_key(self, identity: str) -> model.AccessKey:
        """Make one more key pair for an identity that exists."""
        answer = await self._run(
            f"Making a key for the identity {identity!r}", lambda: self._iam.create_access_key(UserName=identity)
        )
        return model.AccessKey(answer["AccessKey"]["AccessKeyId"], answer["AccessKey"]["SecretAccessKey"])

    async def list_keys(self, identity: str) -> list[str]:
        """Return the access key ids of an identity, sorted."""
        return await self._run(f"Listing the keys of the identity {identity!r}", lambda: self._keys(identity))

    async def delete_key(self, identity: str, access_key_id: str) -> None:
        """Make a key useless."""

        def work() -> None:
            # The store answers the same whether the key was there or not.
            self._iam.delete_access_key(UserName=identity, AccessKeyId=access_key_id)

        await self._run(f"Deleting a key of the identity {identity!r}", work)

    async def delete_identity(self, identity: str) -> None:
        """Remove an identity with all its keys and memberships."""

        def work() -> None:
            for key in self._keys(identity):
                self._iam.delete_access_key(UserName=identity, AccessKeyId=key)
            _ignoring(self._iam.delete_user, "NoSuchEntity", UserName=identity)

        await self._run(f"Deleting the identity {identity!r}", work)

    async def ensure_bucket(self, bucket: str, *, versions: bool) -> None:
        """Make the bucket exist, with versions kept or not."""

        def make() -> None:
            if _ignoring(self._s3.create_bucket, "BucketAlreadyOwnedByYou", Bucket=bucket):
                # The first write makes the bucket's files, 0.2 s, here beside the making of an identity.
                self._s3.put_object(Bucket=bucket, Key=".habari", Body=b"habari")
                self._s3.delete_object(Bucket=bucket, Key=".habari")

        def keep_versions() -> bool:
            found = _ignoring(self._s3.get_bucket_versioning, "NoSuchBucket", Bucket=bucket)
            if found is None:
                return False
            kept = found.get("Status")
            if versions != (kept == "Enabled") and (versions or kept):
                status = {"Status": "Enabled" if versions else "Suspended"}
                self._s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=status)
            return True

        what = f"Making the bucket {bucket!r}"
        if not await self._run(what, keep_versions):
            await self._run(what, make, threads=self._lane)
            await self._run(what, keep_versions)

    async def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket with everything in it; a large one takes several calls, each until its time is over."""

        def empty() -> None:
            try:
                self._empty(bucket)
            except botocore.exceptions.ClientError as error:
                if _code(error) != "NoSuchBucket":
                    raise

        what = f"Deleting the bucket {bucket!r}"
        await self._run(what, empty)
        gone = functools.partial(_ignoring, self._s3.delete_bucket, "NoSuchBucket", Bucket=bucket)
        await self._run(what, gone, threads=self._lane)

    async def get_policy(self, bucket: str) -> policy.Policy | None:
        """Return the bucket's policy as the store has it."""

        def work() -> policy.Policy | None:
            answer = _ignoring(self._s3.get_bucket_policy, "NoSuchBucketPolicy", Bucket=bucket)
            return policy.canonical(json.loads(answer["Policy"])) if answer else None

        return await self._run(f"Reading the policy of the bucket {bucket!r}", work)

    async def set_policy(self, bucket: str, document: policy.Policy | None) -> None:
        """Replace the bucket's whole policy, or remove it."""

        def work() -> None:
            if document is None:
                _ignoring(self._s3.delete_bucket_policy, "NoSuchBucketPolicy", Bucket=bucket)
            else:
                self._s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))

        await self._run(f"Writing the policy of the bucket {bucket!r}", work)

    async def ensure_member(self, group: str, identity: str) -> None:
        """Make the group exist and the identity a member of it."""

        def work() -> None:
            # Reading first, because writing takes 0.1 s with 60 identities, and a launch asks each time.
            if group not in self._groups_of(identity):
                _ignoring(self._iam.create_group, "EntityAlreadyExists", GroupName=group)
                self._iam.add_user_to_group(GroupName=group, UserName=identity)

        await self._run(f"Making the identity {identity!r} a member of the group {group!r}", work)

    async def remove_member(self, group: str, identity: str) -> None:
        """End a membership."""
        await self._run(
            f"Ending the membership of the identity {identity!r} in the group {group!r}",
            lambda: _ignoring(self._iam.remove_user_from_group, "NoSuchEntity", GroupName=group, UserName=identity),
        )

    async def get_group_policy(self, group: str) -> policy.Policy | None:
        """Return the policy that all members of the group have."""

        def work() -> policy.Policy | None:
            answer = _ignoring(self._iam.get_group_policy, "NoSuchEntity", GroupName=group, PolicyName=_POLICY_NAME)
            return policy.canonical(answer["PolicyDocument"]) if answer else None

        return await self._run(f"Reading the policy of the group {group!r}", work)

    async def set_group_policy(self, group: str, document: policy.Policy | None) -> None:
        """Replace the group's whole policy, or remove it."""

        def work() -> None:
            _ignoring(self._iam.create_group, "EntityAlreadyExists", GroupName=group)
            named = {"GroupName": group, "PolicyName": _POLICY_NAME}
            if document is None:
                _ignoring(self._iam.delete_group_policy, "NoSuchEntity", **named)
            else:
                self._iam.put_group_policy(**named, PolicyDocument=json.dumps(document))

        await self._run(f"Writing the policy of the group {group!r}", work)

    async def first_write(self, bucket: str, key: model.AccessKey) -> None:
        """Prove that a user's key writes to, reads from and deletes in a bucket, and leave nothing behind."""

        def work() -> None:
            named = {"Bucket": bucket, "Key": f".habari-{secrets.token_hex(8)}"}
            user = self._client("s3", key)
            try:
                user.put_object(**named, Body=b"habari")
                user.get_object(**named)["Body"].read()
                user.delete_object(**named)
            finally:
                self._delete_versions(bucket, named["Key"])
                user.close()

        # In the lane, because it is the first object where making the bucket was interrupted.
        await self._run(f"The first write to the bucket {bucket!r}", work, threads=self._lane)

    async def close(self) -> None:
        """Release connections and threads."""
        for threads in (self._threads, self._lane):
            threads.shutdown(wait=False, cancel_futures=True)
        self._s3.close()
        self._iam.close()

    async def _run(
        self, what: str, work: Callable[[], _T], *, threads: concurrent.futures.Executor | None = None
    ) -> _T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(base.CALL_TIMEOUT_S):
                return await loop.run_in_executor(threads or self._threads, functools.partial(_mapped, what, work))
        except TimeoutError as error:
            msg = f"{what} did not end within {base.CALL_TIMEOUT_S:.0f} seconds: the object store is slow; try again."
            raise errors.UnavailableError(msg) from error

    def _client(self, service: str, key: model.AccessKey) -> Any:
        with self._making:
            return self._session.client(
                service,
                endpoint_url=self._url,
                region_name=self.endpoint.region,
                aws_access_key_id=key.access_key_id,
                aws_secret_access_key=key.secret_access_key,
                config=_CONFIG,
            )

    def _keys(self, identity: str) -> list[str]:
        listed = self._iam.get_paginator("list_access_keys").paginate(UserName=identity)
        return sorted(each["AccessKeyId"] for page in listed for each in page["AccessKeyMetadata"])

    def _groups_of(self, identity: str) -> set[str]:
        listed = self._iam.get_paginator("list_groups_for_user").paginate(UserName=identity)
        return {each["GroupName"] for page in listed for each in page["Groups"]}

    def _empty(self, bucket: str) -> None:
        for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for each in page.get("Uploads", []):
                named = {"Bucket": bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
                _ignoring(self._s3.abort_multipart_upload, "NoSuchUpload", **named)
        self._delete_versions(bucket, "")

    def _delete_versions(self, bucket: str, prefix: str) -> None:
        """Delete every version and delete marker of the keys that start with `prefix`."""
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            found = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for kind in ("Versions", "DeleteMarkers")
                for each in page.get(kind, [])
            ]
            if found:
                answer = self._s3.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
                if refused := answer.get("Errors"):
                    raise botocore.exceptions.ClientError({"Error": refused[0]}, "DeleteObjects")


def _mapped(what: str, work: Callable[[], _T]) -> _T:
    """Do the work; the store's errors become ours."""
    try:
        return work()
    except botocore.exceptions.ClientError as error:
        code = _code(error)
        kind, reason = _ERRORS.get(code, (errors.UnavailableError, f"it answered {code}; try again."))
        msg = f"{what} failed at the object store: {reason}"
        raise kind(msg) from error
    except botocore.exceptions.BotoCoreError as error:
        msg = f"{what} failed: the object store does not answer ({type(error).__name__}). Try again when it runs."
        raise errors.UnavailableError(msg) from error


def _ignoring(call: Callable[..., _T], code: str, **arguments: Any) -> _T | None:
    """Call the store; None if it answers with this code."""
    try:
        return call(**arguments)
    except botocore.exceptions.ClientError as error:
        if _code(error) != code:
            raise
        return None


def _code(error: botocore.exceptions.ClientError) -> str:
    """Return the store's error code; its refusals by the IAM API have a status only."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return str(error.response.get("Error", {}).get("Code") or status)
