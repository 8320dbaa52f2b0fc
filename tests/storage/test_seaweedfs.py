"""What is special to SeaweedFS: how its errors are told, and what a user who may write tries next."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import botocore.stub
import pytest

from habari.core import errors, model
from habari.storage import base, reconcile, seaweedfs

KEY = model.AccessKey("AKIAEXAMPLE", "hush-hush")


@pytest.fixture
async def offline() -> AsyncIterator[seaweedfs.SeaweedFS]:
    backend = seaweedfs.SeaweedFS("http://127.0.0.1:1", KEY, public_url="https://s3.example.org")
    yield backend
    await backend.close()


# Errors


@pytest.mark.parametrize(
    ("code", "status", "kind", "reason"),
    [
        ("NoSuchEntity", 404, errors.NotFoundError, "it knows no such identity, key or group; ensure it first."),
        ("NoSuchBucket", 404, errors.NotFoundError, "it has no such bucket; ensure it first."),
        ("InvalidBucketName", 400, errors.InvalidInputError, "it does not take the name; choose one that S3 allows."),
        ("MalformedPolicy", 400, errors.InvalidInputError, "it does not understand the policy; a mistake in Habari."),
        (
            "MalformedPolicyDocument",
            400,
            errors.InvalidInputError,
            "it does not understand the policy; a mistake in Habari.",
        ),
        (
            "PolicyTooLarge",
            400,
            errors.InvalidInputError,
            "the policy is too large; share with a group instead of many users.",
        ),
        ("BucketAlreadyExists", 409, errors.ConflictError, "it belongs to somebody else there; choose another name."),
        ("BucketNotEmpty", 409, errors.ConflictError, "something was written meanwhile; try again."),
        ("AccessDenied", 403, errors.UnavailableError, "it refused the key; has the key been replaced?"),
        ("", 403, errors.UnavailableError, "it refused the key; has the key been replaced?"),
        ("InvalidAccessKeyId", 403, errors.UnavailableError, "it refused the key; has the key been replaced?"),
        ("SignatureDoesNotMatch", 403, errors.UnavailableError, "it refused the key; has the key been replaced?"),
        ("InternalError", 500, errors.UnavailableError, "it answered InternalError; try again."),
        ("", 502, errors.UnavailableError, "it answered 502; try again."),
    ],
)
async def test_each_answer_of_the_store_becomes_a_sentence(
    offline: seaweedfs.SeaweedFS, code: str, status: int, kind: type[Exception], reason: str
) -> None:
    with botocore.stub.Stubber(offline._iam) as stubber:
        stubber.add_client_error("create_access_key", code, http_status_code=status)
        with pytest.raises(kind) as caught:
            await offline.create_key("user-ada")
    assert str(caught.value) == f"Making a key for the identity 'user-ada' failed at the object store: {reason}"
    assert isinstance(caught.value.__cause__, botocore.exceptions.ClientError)


async def test_a_store_that_is_not_there_is_told_and_no_key_with_it(offline: seaweedfs.SeaweedFS) -> None:
    with pytest.raises(errors.UnavailableError) as caught:
        await offline.check()
    assert str(caught.value) == (
        "The check of the object store failed: the object store does not answer (EndpointConnectionError). "
        "Try again when it runs."
    )


async def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CALL_TIMEOUT_S", 0.2)
    held: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    backend = seaweedfs.SeaweedFS(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEY)
    with pytest.raises(
        errors.UnavailableError, match=r"^Making the bucket 'lake' did not end within 0 seconds: the object"
    ):
        await backend.ensure_bucket("lake", versions=True)
    server.close()
    for each in held:
        each.close()
        await each.wait_closed()
    await backend.close()


async def test_a_version_that_cannot_be_deleted_stops_the_deletion(offline: seaweedfs.SeaweedFS) -> None:
    with botocore.stub.Stubber(offline._s3) as stubber:
        stubber.add_response("list_multipart_uploads", {})
        stubber.add_response("list_object_versions", {"Versions": [{"Key": "x", "VersionId": "1"}]})
        stubber.add_response("delete_objects", {"Errors": [{"Key": "x", "Code": "InternalError", "Message": "no"}]})
        with pytest.raises(
            errors.UnavailableError, match=r"Deleting the bucket 'lake' failed .*it answered InternalError"
        ):
            await offline.delete_bucket("lake")


async def test_an_upload_that_ended_meanwhile_does_not_stop_the_deletion(offline: seaweedfs.SeaweedFS) -> None:
    with botocore.stub.Stubber(offline._s3) as stubber:
        stubber.add_response("list_multipart_uploads", {"Uploads": [{"Key": "x", "UploadId": "1"}]})
        stubber.add_client_error("abort_multipart_upload", "NoSuchUpload", http_status_code=404)
        stubber.add_response("list_object_versions", {})
        stubber.add_client_error("delete_bucket", "NoSuchBucket", http_status_code=404)
        await offline.delete_bucket("lake")


def test_users_are_told_the_public_address(offline: seaweedfs.SeaweedFS) -> None:
    assert offline.endpoint == base.Endpoint("https://s3.example.org", "us-east-1")


def test_no_key_is_in_a_repr(offline: seaweedfs.SeaweedFS) -> None:
    assert "hush" not in repr(offline) + repr(vars(offline))


@pytest.mark.s3
async def test_buckets_are_made_and_deleted_one_after_another(
    backend: seaweedfs.SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once can stop the store for good."""
    at_once, most = 0, 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def work(**arguments: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return call(**arguments)
            finally:
                at_once -= 1

        return work

    for name in ("create_bucket", "put_object", "delete_bucket"):
        monkeypatch.setattr(backend._s3, name, watched(getattr(backend._s3, name)))
    names = [f"b-{uuid.uuid4().hex[:12]}" for _ in range(8)]
    await asyncio.gather(*(backend.ensure_bucket(name, versions=False) for name in names))
    await asyncio.gather(*(backend.delete_bucket(name) for name in names))
    assert most == 1


# What a user who may write tries next

_PUBLIC = {"AWS": ["*"]}


def _public_policy(bucket: str) -> str:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


ATTACKS: dict[str, Callable[[Any, str], Any]] = {
    "make a bucket": lambda s3, bucket: s3.create_bucket(Bucket=f"{bucket}-mine"),
    "delete the bucket": lambda s3, bucket: s3.delete_bucket(Bucket=bucket),
    "open the bucket": lambda s3, bucket: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
    "open an object": lambda s3, bucket: s3.put_object_acl(Bucket=bucket, Key="x", ACL="public-read"),
    "write the policy": lambda s3, bucket: s3.put_bucket_policy(Bucket=bucket, Policy=_public_policy(bucket)),
    "read the policy": lambda s3, bucket: s3.get_bucket_policy(Bucket=bucket),
    "delete the policy": lambda s3, bucket: s3.delete_bucket_policy(Bucket=bucket),
    "stop versions": lambda s3, bucket: s3.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
    ),
    "delete a version": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="x", VersionId="null"),
    "let objects expire": lambda s3, bucket: s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [{"ID": "a", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
        },
    ),
    "let other sites in": lambda s3, bucket: s3.put_bucket_cors(
        Bucket=bucket, CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}
    ),
    "lock an object for ever": lambda s3, bucket: s3.put_object_retention(
        Bucket=bucket,
        Key="x",
        Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.datetime(2126, 1, 1, tzinfo=datetime.UTC)},
    ),
    "lock the bucket": lambda s3, bucket: s3.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    ),
    "take ownership": lambda s3, bucket: s3.put_bucket_ownership_controls(
        Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    ),
    "encrypt": lambda s3, bucket: s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    ),
}

IAM_ATTACKS: dict[str, Callable[[Any, str], Any]] = {
    "list identities": lambda iam, _: iam.list_users(),
    "make an identity": lambda iam, _: iam.create_user(UserName="user-planted"),
    "a key of another": lambda iam, other: iam.create_access_key(UserName=other),
    "keys of another": lambda iam, other: iam.list_access_keys(UserName=other),
    "a policy of its own": lambda iam, _: iam.put_user_policy(
        UserName=_, PolicyName="all", PolicyDocument=_public_policy("lake")
    ),
    "a managed policy": lambda iam, _: iam.create_policy(PolicyName="all", PolicyDocument=_public_policy("lake")),
    "a group": lambda iam, other: iam.add_user_to_group(GroupName="everyone", UserName=other),
    "a group's policy": lambda iam, _: iam.put_group_policy(
        GroupName="everyone", PolicyName="grants", PolicyDocument=_public_policy("lake")
    ),
    "a role": lambda iam, _: iam.create_role(RoleName="all", AssumeRolePolicyDocument=_public_policy("lake")),
}


@pytest.fixture(scope="module")
def backend(object_store: Any) -> Iterator[seaweedfs.SeaweedFS]:
    backend = seaweedfs.SeaweedFS(object_store.url, object_store.key)
    yield backend
    asyncio.run(backend.close())


class Writer:
    """A user who may write to a bucket, by a bucket's policy or as a member of a group."""

    def __init__(self, url: str, identity: str, bucket: str, key: model.AccessKey) -> None:
        self.identity = identity
        self.bucket = bucket
        self.url = url
        self.key = key
        self.s3, self.iam, self.sts = (self.client(service) for service in ("s3", "iam", "sts"))

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key.access_key_id,
            aws_secret_access_key=self.key.secret_access_key,
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="module", params=["bucket policy", "group policy"])
def writer(request: pytest.FixtureRequest, object_store: Any, backend: seaweedfs.SeaweedFS) -> Writer:
    name = uuid.uuid4().hex[:12]
    identity, bucket, group = f"user-{name}", f"b-{name}", f"g-{name}"

    async def make() -> model.AccessKey:
        reconciler = reconcile.Reconciler(backend)
        await backend.ensure_identity(identity)
        await backend.ensure_bucket(bucket, versions=True)
        user = model.Grantee(model.GranteeKind.USER, identity)
        if request.param == "bucket policy":
            desired = reconcile.Desired(1, [model.Grant(bucket, user, model.Access.WRITE)], lambda _: [identity])
            await reconciler.bucket(bucket, lambda: asyncio.sleep(0, desired))
        else:
            await backend.ensure_member(group, identity)
            desired = reconcile.Desired(1, [model.Grant(bucket, model.EVERYONE, model.Access.WRITE)])
            await reconciler.everyone(group, lambda: asyncio.sleep(0, desired))
        return await backend.create_key(identity)

    writer = Writer(object_store.url, identity, bucket, asyncio.run(make()))
    writer.s3.put_object(Bucket=bucket, Key="x", Body=b"1")
    return writer


def _status(call: Callable[[], Any]) -> int:
    try:
        return int(call()["ResponseMetadata"]["HTTPStatusCode"])
    except botocore.exceptions.ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.s3
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_writer_cannot_change_who_may_do_what(writer: Writer, attack: str) -> None:
    assert _status(lambda: ATTACKS[attack](writer.s3, writer.bucket)) == 403


@pytest.mark.s3
@pytest.mark.parametrize("attack", IAM_ATTACKS)
def test_a_writer_cannot_administer_identities(writer: Writer, attack: str) -> None:
    assert _status(lambda: IAM_ATTACKS[attack](writer.iam, "user-other")) == 403


@pytest.mark.s3
def test_a_writer_cannot_become_somebody_else_for_a_time(writer: Writer) -> None:
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    role = "arn:aws:iam::000000000000:role/admin"
    assert _status(writer.sts.get_session_token) == 403
    assert _status(lambda: writer.sts.get_federation_token(Name="root", Policy=policy)) == 403
    assert _status(lambda: writer.sts.assume_role(RoleArn=role, RoleSessionName="root")) == 403


@pytest.mark.s3
@pytest.mark.parametrize("acl", [{"ACL": "public-read"}, {"ACL": "public-read-write"}])
def test_an_acl_put_on_an_object_opens_it_to_nobody(writer: Writer, acl: dict[str, str]) -> None:
    writer.s3.put_object(Bucket=writer.bucket, Key="open", Body=b"1", **acl)
    unsigned = botocore.config.Config(signature_version=botocore.UNSIGNED, s3={"addressing_style": "path"})
    anonymous = boto3.client("s3", endpoint_url=writer.url, region_name="us-east-1", config=unsigned)
    named = {"Bucket": writer.bucket, "Key": "open"}
    assert _status(lambda: anonymous.get_object(**named)) == 403
    assert _status(lambda: anonymous.put_object(**named, Body=b"2")) == 403
    assert _status(lambda: anonymous.delete_object(**named)) == 403


@pytest.mark.s3
async def test_a_key_that_a_user_made_alone_does_no_more_and_is_removed(
    writer: Writer, backend: seaweedfs.SeaweedFS
) -> None:
    made = writer.iam.create_access_key()["AccessKey"]
    own = Writer(
        writer.url, writer.identity, writer.bucket, model.AccessKey(made["AccessKeyId"], made["SecretAccessKey"])
    )
    assert _status(lambda: own.s3.get_object(Bucket=own.bucket, Key="x")) == 200
    assert _status(lambda: own.s3.put_bucket_acl(Bucket=own.bucket, ACL="public-read")) == 403
    assert made["AccessKeyId"] in await backend.list_keys(writer.identity)

    async def keep() -> list[str]:
        return [writer.key.access_key_id]

    assert await reconcile.Reconciler(backend).keys(writer.identity, keep) == [made["AccessKeyId"]]
    assert _status(lambda: own.s3.get_object(Bucket=own.bucket, Key="x")) == 403
    assert _status(lambda: writer.s3.get_object(Bucket=own.bucket, Key="x")) == 200


@pytest.mark.s3
async def test_nothing_of_the_attacks_stuck(writer: Writer, backend: seaweedfs.SeaweedFS) -> None:
    found = await backend.get_policy(writer.bucket)
    assert found is None or all(each["Principal"] != _PUBLIC for each in found["Statement"])
    assert await backend.list_keys("user-planted") == []
    assert await backend.list_keys("user-other") == []
