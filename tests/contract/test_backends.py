"""What every backend must do, over each: identities, keys, groups, and grants as an object store enforces them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from habari.core import errors, model
from habari.storage import memory, reconcile, seaweedfs

READ, WRITE = model.Access.READ, model.Access.WRITE


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except botocore.exceptions.ClientError as error:
        _raise(error.response["ResponseMetadata"]["HTTPStatusCode"], error)
    except urllib.error.HTTPError as error:
        error.close()
        _raise(error.code, error)


def _raise(status: int, error: Exception) -> None:
    known = {
        400: errors.InvalidInputError,
        403: errors.NotPermittedError,
        404: errors.NotFoundError,
        412: errors.ConflictError,
    }
    raise known[status](str(error)) from error


class S3Client:
    """The methods of `memory.Client`, over boto3."""

    def __init__(self, url: str, key: model.AccessKey | None) -> None:
        signed = {} if key else {"signature_version": botocore.UNSIGNED}
        self.s3: Any = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=key.access_key_id if key else None,
            aws_secret_access_key=key.secret_access_key if key else None,
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **signed),
        )

    def put(self, bucket: str, key: str, body: bytes, *, only_new: bool = False) -> None:
        with _translated():
            extra = {"IfNoneMatch": "*"} if only_new else {}
            self.s3.put_object(Bucket=bucket, Key=key, Body=body, **extra)

    def get(self, bucket: str, key: str) -> bytes:
        with _translated():
            return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def delete(self, bucket: str, key: str) -> None:
        with _translated():
            self.s3.delete_object(Bucket=bucket, Key=key)

    def delete_many(self, bucket: str, keys: list[str]) -> list[str]:
        with _translated():
            try:
                answer = self.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
            except botocore.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
                    raise
                return keys
            return [each["Key"] for each in answer.get("Errors", [])]

    def list_keys(self, bucket: str, prefix: str = "") -> list[str]:
        with _translated():
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def copy(self, source_bucket: str, source: str, bucket: str, key: str) -> None:
        with _translated():
            self.s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": source_bucket, "Key": source})

    def history(self, bucket: str, key: str) -> list[bytes]:
        with _translated():
            listed = self.s3.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", [])
            get = self.s3.get_object
            return [get(Bucket=bucket, Key=key, VersionId=each["VersionId"])["Body"].read() for each in listed[::-1]]

    def start_upload(self, bucket: str, key: str) -> str:
        with _translated():
            return self.s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]

    def upload_part(self, bucket: str, key: str, upload: str, number: int, body: bytes) -> str:
        with _translated():
            named = {"Bucket": bucket, "Key": key, "UploadId": upload, "PartNumber": number}
            return self.s3.upload_part(**named, Body=body)["ETag"]

    def copy_part(self, source_bucket: str, source: str, bucket: str, key: str, upload: str) -> str:
        with _translated():
            named = {"Bucket": bucket, "Key": key, "UploadId": upload, "PartNumber": 1}
            origin = {"Bucket": source_bucket, "Key": source}
            return self.s3.upload_part_copy(**named, CopySource=origin)["CopyPartResult"]["ETag"]

    def complete_upload(self, bucket: str, key: str, upload: str, etags: dict[int, str]) -> None:
        with _translated():
            parts = [{"PartNumber": number, "ETag": etag} for number, etag in etags.items()]
            named = {"Bucket": bucket, "Key": key, "UploadId": upload}
            self.s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})

    def presigned_get(self, bucket: str, key: str) -> Callable[[], bytes]:
        url = self.s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        return lambda: self._send(urllib.request.Request(url))

    def presigned_put(self, bucket: str, key: str) -> Callable[[bytes], bytes]:
        url = self.s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key})
        return lambda body: self._send(urllib.request.Request(url, data=body, method="PUT"))

    def _send(self, request: urllib.request.Request) -> bytes:
        with _translated(), urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


@dataclasses.dataclass
class User:
    identity: str
    key: model.AccessKey
    client: Any
    grantee: model.Grantee


@dataclasses.dataclass
class World:
    """A backend, and short words for what the tests do with it."""

    backend: Any
    admin: Any
    connect: Callable[[model.AccessKey | None], Any]
    reconciler: reconcile.Reconciler
    generation: int = 0

    async def user(self, name: str = "ada") -> User:
        identity = f"user-{name}-{_unique()}"
        await self.backend.ensure_identity(identity)
        key = await self.backend.create_key(identity)
        return User(identity, key, self.connect(key), model.Grantee(model.GranteeKind.USER, identity))

    async def bucket(self, *, versions: bool = False) -> str:
        name = f"b-{_unique()}"
        await self.backend.ensure_bucket(name, versions=versions)
        return name

    def keys_with_a_history(self, bucket: str) -> set[str]:
        """Return each key with a version or a delete marker."""
        if isinstance(self.backend, memory.Memory):
            return set(self.backend.bucket(bucket).objects)
        listed = self.admin.s3.list_object_versions(Bucket=bucket)
        return {each["Key"] for kind in ("Versions", "DeleteMarkers") for each in listed.get(kind, [])}

    async def grant(self, bucket: str, *grants: tuple[User, model.Access] | model.Grant) -> None:
        """Make these the bucket's whole grants."""
        self.generation += 1
        listed = [
            each if isinstance(each, model.Grant) else model.Grant(bucket, each[0].grantee, each[1]) for each in grants
        ]
        desired = reconcile.Desired(self.generation, listed, lambda grantee: [grantee.name])
        await self.reconciler.bucket(bucket, lambda: asyncio.sleep(0, desired))

    async def grant_group(self, group: str, *grants: model.Grant) -> None:
        """Make these the group's whole grants."""
        self.generation += 1
        desired = reconcile.Desired(self.generation, grants)
        await self.reconciler.everyone(group, lambda: asyncio.sleep(0, desired))


def _unique() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture(scope="module", params=["memory", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        store = memory.Memory()
        yield World(store, store.client(store.admin_key), store.client, reconcile.Reconciler(store))
        return
    running = request.getfixturevalue("object_store")
    backend = seaweedfs.SeaweedFS(running.url, running.key)

    def connect(key: model.AccessKey | None) -> S3Client:
        return S3Client(running.url, key)

    yield World(backend, connect(running.key), connect, reconcile.Reconciler(backend))
    asyncio.run(backend.close())


def _refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except errors.NotPermittedError:
        return True
    return False


async def _until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)


# Identities and keys


async def test_a_store_that_runs_passes_the_check(world: World) -> None:
    await world.backend.check()


async def test_ensuring_an_identity_twice_keeps_its_keys(world: World) -> None:
    ada = await world.user()
    await world.backend.ensure_identity(ada.identity)
    assert await world.backend.list_keys(ada.identity) == [ada.key.access_key_id]


async def test_an_identity_without_a_grant_may_do_nothing(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    world.admin.put(bucket, "x", b"1")
    assert _refused(ada.client.get, bucket, "x")
    assert _refused(ada.client.put, bucket, "y", b"1")
    assert _refused(ada.client.list_keys, bucket)


async def test_keys_can_be_rotated_without_a_gap(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, WRITE))
    second = await world.backend.create_key(ada.identity)
    renewed = world.connect(second)
    renewed.put(bucket, "x", b"1")
    assert ada.client.get(bucket, "x") == b"1"
    await world.backend.delete_key(ada.identity, ada.key.access_key_id)
    assert _refused(ada.client.get, bucket, "x")
    assert renewed.get(bucket, "x") == b"1"
    assert await world.backend.list_keys(ada.identity) == [second.access_key_id]


async def test_deleting_what_is_gone_is_fine(world: World) -> None:
    ada = await world.user()
    await world.backend.delete_key(ada.identity, "AKIAGONEGONEGONEGONE")
    for _ in range(2):
        await world.backend.delete_identity(ada.identity)
        await world.backend.delete_key(ada.identity, ada.key.access_key_id)
    assert await world.backend.list_keys(ada.identity) == []


async def test_a_key_for_nobody_is_not_made(world: World) -> None:
    with pytest.raises(errors.NotFoundError, match=r"'user-nobody'.*ensure it first\.$"):
        await world.backend.create_key("user-nobody")


async def test_a_deleted_identity_is_locked_out_and_leaves_its_groups(world: World) -> None:
    ada, bucket, group = await world.user(), await world.bucket(), f"g-{_unique()}"
    await world.backend.ensure_member(group, ada.identity)
    await world.grant_group(group, model.Grant(bucket, model.EVERYONE, WRITE))
    ada.client.put(bucket, "x", b"1")
    await world.backend.delete_identity(ada.identity)
    assert _refused(ada.client.get, bucket, "x")
    await world.backend.ensure_identity(ada.identity)
    again = world.connect(await world.backend.create_key(ada.identity))
    assert _refused(again.get, bucket, "x")


async def test_identities_made_at_once_are_all_there(world: World) -> None:
    group, bucket = f"g-{_unique()}", await world.bucket()
    await world.grant_group(group, model.Grant(bucket, model.EVERYONE, READ))

    async def join() -> User:
        user = await world.user()
        await world.backend.ensure_member(group, user.identity)
        return user

    users = await asyncio.gather(*(join() for _ in range(12)))
    for user in users:
        assert user.client.list_keys(bucket) == []


# Buckets


async def test_ensuring_a_bucket_twice_keeps_what_is_in_it(world: World) -> None:
    bucket = await world.bucket()
    world.admin.put(bucket, "x", b"1")
    await world.backend.ensure_bucket(bucket, versions=False)
    assert world.admin.get(bucket, "x") == b"1"


async def test_a_name_that_s3_does_not_take_is_refused(world: World) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"'Not_S3'.*choose one that S3 allows\.$"):
        await world.backend.ensure_bucket("Not_S3", versions=False)


async def test_versions_bring_back_what_somebody_deleted(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket(versions=True)
    await world.grant(bucket, (ada, WRITE))
    ada.client.put(bucket, "x", b"1")
    ada.client.put(bucket, "x", b"2")
    ada.client.delete(bucket, "x")
    with pytest.raises(errors.NotFoundError):
        ada.client.get(bucket, "x")
    assert world.admin.history(bucket, "x") == [b"1", b"2"]


async def test_versions_can_be_switched_on_later(world: World) -> None:
    bucket = await world.bucket()
    await world.backend.ensure_bucket(bucket, versions=True)
    world.admin.put(bucket, "x", b"1")
    world.admin.put(bucket, "x", b"2")
    assert world.admin.history(bucket, "x") == [b"1", b"2"]


@pytest.mark.parametrize("versions", [False, True])
async def test_a_deleted_bucket_is_gone_with_everything_in_it(world: World, *, versions: bool) -> None:
    bucket = await world.bucket(versions=versions)
    for key in ("a", "deep/er/b", "c d+é"):
        world.admin.put(bucket, key, b"1")
        world.admin.put(bucket, key, b"2")
    world.admin.delete(bucket, "a")
    world.admin.start_upload(bucket, "unfinished")
    await world.backend.delete_bucket(bucket)
    await world.backend.delete_bucket(bucket)
    with pytest.raises(errors.NotFoundError):
        world.admin.get(bucket, "deep/er/b")
    await world.backend.ensure_bucket(bucket, versions=False)
    assert world.admin.list_keys(bucket) == []


# Grants


async def test_reading_does_not_include_writing(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    world.admin.put(bucket, "x", b"1")
    await world.grant(bucket, (ada, READ))
    assert ada.client.list_keys(bucket) == ["x"]
    assert ada.client.get(bucket, "x") == b"1"
    assert _refused(ada.client.put, bucket, "y", b"1")
    assert _refused(ada.client.put, bucket, "x", b"1")
    assert _refused(ada.client.delete, bucket, "x")
    assert _refused(ada.client.start_upload, bucket, "y")
    assert _refused(ada.client.copy, bucket, "x", bucket, "y")
    assert ada.client.delete_many(bucket, ["x"]) == ["x"]
    assert world.admin.list_keys(bucket) == ["x"]


async def test_writing_includes_reading_and_large_uploads(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, WRITE))
    for key in ("x", "deep/er/ü ?*%.csv"):
        ada.client.put(bucket, key, b"1")
        assert ada.client.get(bucket, key) == b"1"
    ada.client.put(bucket, "folder/", b"")
    assert ada.client.get(bucket, "folder/") == b""
    upload = ada.client.start_upload(bucket, "large")
    etag = ada.client.upload_part(bucket, "large", upload, 1, b"part")
    ada.client.complete_upload(bucket, "large", upload, {1: etag})
    ada.client.copy(bucket, "large", bucket, "copy")
    assert ada.client.get(bucket, "copy") == b"part"
    assert ada.client.delete_many(bucket, ["copy", "large"]) == []
    ada.client.delete(bucket, "x")
    with pytest.raises(errors.NotFoundError):
        ada.client.get(bucket, "x")


async def test_a_write_may_insist_on_being_the_first(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, WRITE))
    ada.client.put(bucket, "x", b"1", only_new=True)
    with pytest.raises(errors.ConflictError):
        ada.client.put(bucket, "x", b"2", only_new=True)
    assert ada.client.get(bucket, "x") == b"1"


async def test_one_user_never_reaches_the_bucket_of_another(world: World) -> None:
    ada, eve = await world.user("ada"), await world.user("eve")
    hers, own = await world.bucket(), await world.bucket()
    await world.grant(hers, (ada, WRITE))
    await world.grant(own, (eve, WRITE))
    ada.client.put(hers, "secret", b"1")
    upload = eve.client.start_upload(own, "part")
    assert _refused(eve.client.get, hers, "secret")
    assert _refused(eve.client.list_keys, hers)
    assert _refused(eve.client.put, hers, "x", b"1")
    assert _refused(eve.client.delete, hers, "secret")
    assert eve.client.delete_many(hers, ["secret"]) == ["secret"]
    assert _refused(eve.client.copy, hers, "secret", own, "copied")
    assert _refused(eve.client.copy_part, hers, "secret", own, "part", upload)
    assert _refused(eve.client.presigned_get(hers, "secret"))
    assert _refused(eve.client.start_upload, hers, "x")
    assert eve.client.list_keys(own) == []
    assert ada.client.list_keys(hers) == ["secret"]


@pytest.mark.parametrize("trick", ["../{0}/secret", "x/../../{0}/secret", "./../{0}/secret", "%2e%2e/{0}/secret"])
async def test_no_key_leads_out_of_a_bucket(world: World, trick: str) -> None:
    ada, eve = await world.user("ada"), await world.user("eve")
    hers, own = await world.bucket(), await world.bucket()
    await world.grant(hers, (ada, WRITE))
    await world.grant(own, (eve, WRITE))
    ada.client.put(hers, "secret", b"1")
    key = trick.format(hers)
    with pytest.raises(errors.PublicError):
        eve.client.get(own, key)
    with pytest.raises(errors.PublicError):
        eve.client.copy(own, key, own, "copied")
    with contextlib.suppress(errors.PublicError):
        eve.client.put(own, key, b"2")
    with contextlib.suppress(errors.PublicError):
        eve.client.delete_many(own, [key])
    assert ada.client.get(hers, "secret") == b"1"


async def test_nobody_without_a_key_gets_in(world: World) -> None:
    ada, bucket, group = await world.user(), await world.bucket(), f"g-{_unique()}"
    await world.backend.ensure_member(group, ada.identity)
    await world.grant(bucket, (ada, WRITE))
    await world.grant_group(group, model.Grant(bucket, model.EVERYONE, WRITE))
    ada.client.put(bucket, "x", b"1")
    anonymous = world.connect(None)
    assert _refused(anonymous.get, bucket, "x")
    assert _refused(anonymous.put, bucket, "x", b"2")
    assert _refused(anonymous.list_keys, bucket)
    forged = world.connect(model.AccessKey(ada.key.access_key_id, "0" * 40))
    assert _refused(forged.get, bucket, "x")


async def test_a_grant_of_a_prefix_ends_at_the_prefix(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    for key in ("lake/ada/x", "lake/ada", "lake/adam/x", "other"):
        world.admin.put(bucket, key, b"1")
    await world.grant(bucket, model.Grant(bucket, ada.grantee, WRITE, prefix="lake/ada/"))
    assert ada.client.list_keys(bucket, "lake/ada/") == ["lake/ada/x"]
    assert ada.client.get(bucket, "lake/ada/x") == b"1"
    ada.client.put(bucket, "lake/ada/y", b"1")
    for key in ("lake/ada", "lake/adam/x", "other"):
        assert _refused(ada.client.get, bucket, key)
        assert _refused(ada.client.put, bucket, key, b"2")
        assert ada.client.delete_many(bucket, [key]) == [key]
        assert _refused(ada.client.copy, bucket, key, bucket, "lake/ada/stolen")
    for prefix in ("", "lake/", "lake/ada", "lake/adam/"):
        assert _refused(ada.client.list_keys, bucket, prefix)


async def test_several_grants_add_up(world: World) -> None:
    ada, bob, bucket = await world.user("ada"), await world.user("bob"), await world.bucket()
    mine = model.Grant(bucket, ada.grantee, WRITE, prefix="ada/")
    await world.grant(bucket, (ada, READ), (bob, READ), mine)
    ada.client.put(bucket, "ada/x", b"1")
    assert bob.client.get(bucket, "ada/x") == b"1"
    assert ada.client.list_keys(bucket) == ["ada/x"]
    assert _refused(ada.client.put, bucket, "x", b"1")
    assert _refused(bob.client.put, bucket, "ada/x", b"1")


async def test_an_expiry_ends_access_without_anybody_doing_anything(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    await world.grant(bucket, model.Grant(bucket, ada.grantee, WRITE, expires_at=end))
    ada.client.put(bucket, "x", b"1")
    await _until(lambda: _refused(ada.client.get, bucket, "x"))
    assert _refused(ada.client.list_keys, bucket)


async def test_an_expiry_for_everyone_ends_access_or_is_not_offered(world: World) -> None:
    ada, bucket, group = await world.user(), await world.bucket(), f"g-{_unique()}"
    await world.backend.ensure_member(group, ada.identity)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    grant = model.Grant(bucket, model.EVERYONE, WRITE, prefix="p/", expires_at=end)
    await world.grant_group(group, grant, model.Grant(bucket, model.EVERYONE, READ, prefix="q/"))
    if world.backend.capabilities.expiring_everyone:
        ada.client.put(bucket, "p/x", b"1")
        assert ada.client.list_keys(bucket, "p/") == ["p/x"]
    else:
        with pytest.raises(errors.InvalidInputError, match="cannot end a grant to everyone by itself; share without"):
            world.backend.capabilities.check(grant)
    await _until(lambda: _refused(ada.client.put, bucket, "p/x", b"1"))
    assert _refused(ada.client.list_keys, bucket, "p/")
    assert ada.client.list_keys(bucket, "q/") == []


async def test_taking_a_grant_back_counts_at_once(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, WRITE))
    ada.client.put(bucket, "x", b"1")
    fetch, store = ada.client.presigned_get(bucket, "x"), ada.client.presigned_put(bucket, "y")
    assert fetch() == b"1"
    upload = ada.client.start_upload(bucket, "large")
    etag = ada.client.upload_part(bucket, "large", upload, 1, b"part")
    await world.grant(bucket)
    assert _refused(ada.client.get, bucket, "x")
    assert _refused(ada.client.put, bucket, "x", b"2")
    assert _refused(ada.client.list_keys, bucket)
    assert _refused(fetch)
    assert _refused(store, b"2")
    assert _refused(ada.client.upload_part, bucket, "large", upload, 2, b"part")
    assert _refused(ada.client.complete_upload, bucket, "large", upload, {1: etag})
    assert world.admin.list_keys(bucket) == ["x"]


async def test_write_narrowed_to_read_counts_at_once(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, WRITE))
    ada.client.put(bucket, "x", b"1")
    await world.grant(bucket, (ada, READ))
    assert _refused(ada.client.put, bucket, "x", b"2")
    assert ada.client.get(bucket, "x") == b"1"


# Groups


async def test_what_the_group_and_the_bucket_allow_adds_up(world: World) -> None:
    ada, bob, bucket, group = await world.user("ada"), await world.user("bob"), await world.bucket(), f"g-{_unique()}"
    for user in (ada, bob):
        await world.backend.ensure_member(group, user.identity)
        await world.backend.ensure_member(group, user.identity)
    await world.grant(bucket, (ada, WRITE))
    assert _refused(bob.client.list_keys, bucket)
    await world.grant_group(group, model.Grant(bucket, model.EVERYONE, READ))
    ada.client.put(bucket, "x", b"1")
    assert bob.client.get(bucket, "x") == b"1"
    assert _refused(bob.client.put, bucket, "x", b"2")
    await world.grant(bucket)
    assert ada.client.get(bucket, "x") == b"1"
    assert _refused(ada.client.put, bucket, "x", b"2")
    await world.grant_group(group)
    assert _refused(ada.client.get, bucket, "x")
    assert _refused(bob.client.get, bucket, "x")


async def test_membership_ends_at_once_and_joining_counts_at_once(world: World) -> None:
    ada, bucket, group = await world.user(), await world.bucket(), f"g-{_unique()}"
    await world.grant_group(group, model.Grant(bucket, model.EVERYONE, WRITE))
    assert _refused(ada.client.list_keys, bucket)
    await world.backend.ensure_member(group, ada.identity)
    assert ada.client.list_keys(bucket) == []
    for _ in range(2):
        await world.backend.remove_member(group, ada.identity)
    assert _refused(ada.client.list_keys, bucket)


async def test_a_group_that_nobody_made_has_no_members_and_no_policy(world: World) -> None:
    ada, group = await world.user(), f"g-{_unique()}"
    await world.backend.remove_member(group, ada.identity)
    assert await world.backend.get_group_policy(group) is None
    await world.backend.set_group_policy(group, None)


async def test_only_identities_become_members(world: World) -> None:
    with pytest.raises(errors.NotFoundError, match=r"'user-nobody'.*ensure it first\.$"):
        await world.backend.ensure_member(f"g-{_unique()}", "user-nobody")


# Policies read back


async def test_policies_read_back_as_written(world: World) -> None:
    ada, bucket, group = await world.user(), await world.bucket(), f"g-{_unique()}"
    end = datetime.datetime(2126, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    full = model.Grant(bucket, ada.grantee, WRITE, prefix="p/", expires_at=end)
    assert await world.backend.get_policy(bucket) is None
    for grants in ((full,), (model.Grant(bucket, ada.grantee, READ),)):
        await world.grant(bucket, *grants)
        found = await world.backend.get_policy(bucket)
        assert found["Statement"][0]["Principal"] == {"AWS": [world.backend.principal(ada.identity)]}
        everyone = [dataclasses.replace(each, grantee=model.EVERYONE, expires_at=None) for each in grants]
        await world.grant_group(group, *everyone)
        assert "Principal" not in (await world.backend.get_group_policy(group))["Statement"][0]
    await world.grant(bucket)
    assert await world.backend.get_policy(bucket) is None
    await world.grant_group(group)
    assert await world.backend.get_group_policy(group) is None


async def test_a_policy_for_a_bucket_that_is_not_there_says_so(world: World) -> None:
    with pytest.raises(errors.NotFoundError, match=r"bucket.*ensure it first\.$"):
        await world.backend.get_policy("b-nowhere")


async def test_a_grant_may_name_a_user_whose_identity_comes_later(world: World) -> None:
    bucket, identity = await world.bucket(), f"user-later-{_unique()}"
    await world.grant(bucket, model.Grant(bucket, model.Grantee(model.GranteeKind.USER, identity), WRITE))
    await world.backend.ensure_identity(identity)
    client = world.connect(await world.backend.create_key(identity))
    client.put(bucket, "x", b"1")


# First write


@pytest.mark.parametrize("versions", [False, True])
async def test_the_first_write_proves_the_key_and_leaves_nothing(world: World, *, versions: bool) -> None:
    ada, bucket = await world.user(), await world.bucket(versions=versions)
    await world.grant(bucket, (ada, WRITE))
    await world.backend.first_write(bucket, ada.key)
    assert world.admin.list_keys(bucket) == []
    assert world.keys_with_a_history(bucket) == set()


async def test_the_first_write_with_a_key_that_may_only_read_fails(world: World) -> None:
    ada, bucket = await world.user(), await world.bucket()
    await world.grant(bucket, (ada, READ))
    with pytest.raises(errors.UnavailableError, match=rf"The first write to the bucket '{bucket}' failed"):
        await world.backend.first_write(bucket, ada.key)
    await world.backend.delete_key(ada.identity, ada.key.access_key_id)
    with pytest.raises(errors.UnavailableError, match=rf"The first write to the bucket '{bucket}' failed"):
        await world.backend.first_write(bucket, ada.key)
