"""A hostile user's kernel tries every server on loopback: the object store, the hub, the proxy, another's Jupyter.

Each test shows by a control that the same code gets at the attacker's own things.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import platform_process
import pytest
import pytest_asyncio
import scene as scenes

from habari.local import objectstore

pytestmark = [pytest.mark.hub, pytest.mark.asyncio(loop_scope="module")]

REFUSED = {400, 401, 403, 404, 405}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platform_process.Platform]:
    running = platform_process.Platform(tmp_path_factory.mktemp("habari") / "data")
    running.start()
    yield running
    assert running.stop() == 0
    assert running.processes() == {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(platform: platform_process.Platform) -> AsyncIterator[scenes.Scene]:
    async with scenes.opened(platform) as opened:
        await opened.do("own = {'Authorization': 'token ' + os.environ['JUPYTERHUB_API_TOKEN']}")
        await opened.do("posting = own | {'Content-Type': 'application/json'}")
        yield opened


# Object store, without a key

DOORS = [
    ("GET", "/"),
    ("GET", "/buckets/"),
    ("GET", "/buckets/user-ada/"),
    ("GET", "/buckets/user-ada/diary.txt"),
    ("PUT", "/buckets/user-ada/planted"),
    ("POST", "/buckets/user-ada/planted"),
    ("DELETE", "/buckets/user-ada/diary.txt"),
    ("GET", "/etc/iam/"),
    ("GET", "/etc/iam/identity.json"),
    ("GET", "/etc/iam/identities/?pretty=y"),
    ("GET", "/?metadata=true"),
    ("GET", "/.tus/"),
    ("GET", "/dir/assign?collection=user-ada"),
    ("POST", "/dir/assign?collection=user-ada"),
    ("GET", "/dir/lookup?collection=user-ada&volumeId=1"),
    ("GET", "/dir/status"),
    ("GET", "/vol/status"),
    ("GET", "/vol/grow?count=1"),
    ("GET", "/vol/vacuum"),
    ("GET", "/col/delete?collection=user-ada"),
    ("POST", "/col/delete?collection=user-ada"),
    ("POST", "/submit"),
    ("GET", "/cluster/status"),
    ("GET", "/status"),
    ("GET", "/ui/index.html"),
    ("GET", "/stats/disk"),
    ("GET", "/stats/memory"),
    *((method, f"/{volume},01637037d6") for method in ("GET", "PUT", "POST", "DELETE") for volume in range(1, 6)),
    ("POST", "/login"),
    ("GET", "/api/s3/buckets"),
    ("GET", "/api/users"),
    ("POST", "/api/users"),
    ("DELETE", "/api/s3/buckets/user-ada"),
    ("GET", "/user-ada"),
    ("GET", "/user-ada/diary.txt"),
    ("PUT", "/user-ada/planted"),
    ("DELETE", "/user-ada/diary.txt"),
    ("PUT", "/planted-bucket"),
    ("POST", "/?Action=CreateUser&UserName=planted&Version=2010-05-08"),
    ("POST", "/?Action=CreateAccessKey&UserName=user-ada&Version=2010-05-08"),
    ("GET", "/metrics"),
    ("GET", "/debug/pprof/"),
    ("GET", "/healthz"),
]

ANSWERED = {
    ("store-master", "/"),
    ("store-master", "/cluster/status"),
    ("store-master", "/healthz"),
    ("store-master", "/ui/index.html"),
    ("store-volume", "/status"),
    ("store-volume", "/healthz"),
    ("store-filer", "/healthz"),
    ("store-admin", "/metrics"),
    ("store-s3", "/healthz"),
    ("store-s3", "/status"),
}
"""What answers without a key: that it runs, and figures; `Scene.get` looks for secrets in all of it."""


async def test_every_port_of_the_platform_is_found_by_looking(scene: scenes.Scene) -> None:
    found = {int(port) for port in await scene.get("listeners()")}
    assert set(scene.ports.values()) <= found
    assert {port + objectstore.GRPC_OFFSET for name, port in scene.ports.items() if name.startswith("store-")} <= found
    assert set(scene.hers_ports) <= found


@pytest.mark.parametrize("shown", ["nothing", "none", "HS256", "own token"])
async def test_the_object_store_has_no_door_but_one(scene: scenes.Scene, shown: str) -> None:
    headers = {"nothing": "{}", "own token": "own"}.get(shown, f"{{'Authorization': 'Bearer ' + forged({shown!r})}}")
    for name in objectstore.PORTS:
        for port in (scene.ports[name], scene.ports[name] + objectstore.GRPC_OFFSET):
            answers = await scene.get(f"[request({port}, *door, {headers}, 'x') for door in {DOORS!r}]")
            told = [
                (name, path.partition("?")[0], status) for (_, path), (status, _) in zip(DOORS, answers, strict=True)
            ]
            assert {each[:2] for each in told if each[2] == 200} <= ANSWERED
            assert {each[2] for each in told if isinstance(each[2], int)} <= REFUSED | {200}, told
    assert (await scene.ada.contents("buckets/user-ada/diary.txt"))["content"] == scenes.SECRET
    assert await scene.ada.names("buckets/user-ada") == ["diary.txt"]
    assert buckets(scene) == {"lake", "notebooks", "user-ada", "user-bob"}


async def test_grpc_asks_for_a_certificate(scene: scenes.Scene) -> None:
    for name in objectstore.PORTS:
        port = scene.ports[name] + objectstore.GRPC_OFFSET
        assert await scene.get(f"[speaks_grpc({port}, tls=tls) for tls in (True, False)]") == [False, False]
    assert await scene.get("speaks_grpc(own_grpc(), tls=False)") is True


def buckets(scene: scenes.Scene) -> set[str]:
    """Return the names of all buckets, as the administrator's key sees them."""
    secrets = scene.platform.folder / "secrets" / "storage"
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{scene.ports['store-s3']}",
        region_name="us-east-1",
        aws_access_key_id=(secrets / "store_access_key_id").read_text().strip(),
        aws_secret_access_key=(secrets / "store_secret_access_key").read_text().strip(),
    )
    with contextlib.closing(client):
        return {each["Name"] for each in client.list_buckets()["Buckets"]}


# Object store, with a key

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("get_bucket_policy", {}),
    ("put_bucket_policy", {"Policy": "{}"}),
    ("delete_bucket_policy", {}),
    ("get_bucket_acl", {}),
    ("put_bucket_acl", {"ACL": "public-read"}),
    ("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Suspended"}}),
    ("put_bucket_cors", {"CORSConfiguration": {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}}),
    (
        "put_bucket_lifecycle_configuration",
        {
            "LifecycleConfiguration": {
                "Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
            }
        },
    ),
    ("put_bucket_ownership_controls", {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}}),
    ("put_public_access_block", {"PublicAccessBlockConfiguration": {"BlockPublicAcls": False}}),
    ("put_bucket_tagging", {"Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}),
    ("put_object_acl", {"Key": "diary.txt", "ACL": "public-read"}),
    ("delete_bucket", {}),
]
"""What no user may do to any bucket, their own included."""

OBJECTS: list[tuple[str, dict[str, Any]]] = [
    ("head_bucket", {}),
    ("list_objects_v2", {}),
    ("list_object_versions", {}),
    ("list_multipart_uploads", {}),
    ("get_object", {"Key": "diary.txt"}),
    ("head_object", {"Key": "diary.txt"}),
    ("get_object_tagging", {"Key": "diary.txt"}),
    ("get_object_attributes", {"Key": "diary.txt", "ObjectAttributes": ["ETag"]}),
    ("put_object", {"Key": "planted", "Body": b"x"}),
    ("create_multipart_upload", {"Key": "planted"}),
    ("copy_object", {"Key": "planted", "CopySource": "user-bob/mine"}),
    ("delete_object", {"Key": "diary.txt"}),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "diary.txt"}]}}),
]

ADMINISTRATION: list[tuple[str, dict[str, Any]]] = [
    ("list_users", {}),
    ("create_user", {"UserName": "planted"}),
    ("get_user", {"UserName": "user-ada"}),
    ("delete_user", {"UserName": "user-ada"}),
    ("update_user", {"UserName": "user-bob", "NewUserName": "user-root"}),
    ("list_access_keys", {"UserName": "user-ada"}),
    ("create_access_key", {"UserName": "user-ada"}),
    ("put_user_policy", {"UserName": "user-bob", "PolicyName": "p", "PolicyDocument": "ALL"}),
    ("create_policy", {"PolicyName": "p", "PolicyDocument": "ALL"}),
    ("attach_user_policy", {"UserName": "user-bob", "PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}),
    ("list_policies", {}),
    ("list_groups", {}),
    ("get_group", {"GroupName": "everyone"}),
    ("create_group", {"GroupName": "planted"}),
    ("add_user_to_group", {"UserName": "user-bob", "GroupName": "everyone"}),
    ("remove_user_from_group", {"UserName": "user-ada", "GroupName": "everyone"}),
    ("put_group_policy", {"GroupName": "everyone", "PolicyName": "p", "PolicyDocument": "ALL"}),
    ("create_role", {"RoleName": "planted", "AssumeRolePolicyDocument": "ALL"}),
    ("create_open_id_connect_provider", {"Url": "http://127.0.0.1:9/", "ThumbprintList": ["a" * 40]}),
    ("get_account_authorization_details", {}),
]

TEMPORARY: list[tuple[str, dict[str, Any]]] = [
    ("get_session_token", {}),
    ("get_federation_token", {"Name": "bob", "Policy": "ALL"}),
    ("assume_role", {"RoleArn": "arn:aws:iam::000000000000:role/admin", "RoleSessionName": "bob"}),
    (
        "assume_role_with_web_identity",
        {
            "RoleArn": "arn:aws:iam::000000000000:role/admin",
            "RoleSessionName": "bob",
            "WebIdentityToken": "eyJhbGciOiJub25lIn0.e30.",
        },
    ),
]

_ALL = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}]}
)


def on(bucket: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the calls on a bucket as text."""
    return repr([(name, {"Bucket": bucket, **arguments}) for name, arguments in calls])


async def statuses(scene: scenes.Scene, client: str, calls: str) -> dict[str, int]:
    answers = await scene.get(f"asked({client}, {calls.replace(repr('ALL'), repr(_ALL))})")
    return {name: status for name, status, _ in answers}


async def test_no_bucket_of_another_opens(scene: scenes.Scene) -> None:
    control = [("put_object", {"Key": "mine", "Body": b"mine"}), ("get_object", {"Key": "mine"})]
    assert await statuses(scene, "s3()", on("user-bob", control)) == {"put_object": 200, "get_object": 200}
    for client in ("s3()", "s3(anonymous=True)"):
        found = await statuses(scene, client, on("user-ada", OBJECTS))
        assert set(found.values()) <= {403}, (client, found)
    assert set((await statuses(scene, "s3(anonymous=True)", on("user-bob", OBJECTS))).values()) <= {403}
    assert set((await statuses(scene, "s3(anonymous=True)", on("lake", OBJECTS))).values()) <= {403}
    hers = [scene.hers["AWS_ACCESS_KEY_ID"], "x"]
    for key in (repr(hers), f"[{hers[0]!r}, os.environ['AWS_SECRET_ACCESS_KEY']]", f"[{hers[0]!r}, '']"):
        found = await statuses(scene, f"s3(key={key})", on("user-ada", OBJECTS))
        assert set(found.values()) <= {403}, found
    assert await scene.ada.names("buckets/user-ada") == ["diary.txt"]


async def test_copies_take_nothing_from_another_bucket(scene: scenes.Scene) -> None:
    sources = ["user-ada/diary.txt", "/user-ada/diary.txt", "user-bob/../user-ada/diary.txt", "../user-ada/diary.txt"]
    sources += [
        "user-bob/%2e%2e/user-ada/diary.txt",
        "user-bob/..%2Fuser-ada%2Fdiary.txt",
        "user-bob//user-ada/diary.txt",
    ]
    for source in sources:
        status = await statuses(scene, "s3()", on("user-bob", [("copy_object", {"Key": "got", "CopySource": source})]))
        assert status["copy_object"] in REFUSED, source
    started = "s3().create_multipart_upload(Bucket='user-bob', Key='got')['UploadId']"
    upload = await scene.get(started)
    for source in sources:
        part = {"Key": "got", "UploadId": upload, "PartNumber": 1, "CopySource": source}
        status = await statuses(scene, "s3()", on("user-bob", [("upload_part_copy", part)]))
        assert status["upload_part_copy"] in REFUSED, source
    part["CopySource"] = "user-bob/mine"
    assert await statuses(scene, "s3()", on("user-bob", [("upload_part_copy", part)])) == {"upload_part_copy": 200}


async def test_paths_lead_into_no_other_bucket(scene: scenes.Scene) -> None:
    paths = ["/user-bob/../user-ada/diary.txt", "/user-bob/%2e%2e/user-ada/diary.txt", "//user-ada/diary.txt"]
    paths += ["/user-bob//../user-ada/diary.txt", "/user-bob/..%2fuser-ada%2fdiary.txt", "/./user-ada/diary.txt"]
    paths += [
        "/user-bob/x/../../user-ada/diary.txt",
        "/user-bob/..%5cuser-ada%5cdiary.txt",
        "/buckets/user-ada/diary.txt",
    ]
    for path in paths:
        status, _ = await scene.get(f"signed({path!r})")
        assert status in REFUSED | {301, 307}, path
    assert await scene.get("signed('/user-bob/mine')") == [200, "mine"]


@pytest.mark.parametrize("bucket", ["user-bob", "notebooks", "lake", "user-ada"])
async def test_nobody_administers_a_bucket(scene: scenes.Scene, bucket: str) -> None:
    found = await statuses(scene, "s3()", on(bucket, SETTINGS).replace("'{}'", repr(_public(bucket))))
    assert set(found.values()) == {403}, found
    assert await statuses(scene, "s3()", "[('create_bucket', {'Bucket': 'planted'})]") == {"create_bucket": 403}


async def test_the_lake_is_read_and_notebooks_are_written(scene: scenes.Scene) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("list_objects_v2", {}), ("put_object", {"Key": "by-bob", "Body": b"x"})]
    assert await statuses(scene, "s3()", on("lake", calls)) == {"list_objects_v2": 200, "put_object": 403}
    assert await statuses(scene, "s3()", on("notebooks", calls)) == {"list_objects_v2": 200, "put_object": 200}


async def test_a_users_key_administers_nobody(scene: scenes.Scene) -> None:
    found = await statuses(scene, "s3('iam')", repr(ADMINISTRATION))
    assert set(found.values()) == {403}, found
    found = await statuses(scene, "s3('sts')", repr(TEMPORARY))
    assert set(found.values()) <= {400, 403}, found
    assert await statuses(scene, "s3('iam')", "[('get_user', {})]") == {"get_user": 200}


async def test_a_key_that_a_user_makes_can_do_no_more_than_the_user(scene: scenes.Scene) -> None:
    made = await scene.get("s3('iam').create_access_key()['AccessKey']")
    key = f"s3(key={[made['AccessKeyId'], made['SecretAccessKey']]!r})"
    assert await statuses(scene, key, on("user-bob", OBJECTS[1:2])) == {"list_objects_v2": 200}
    assert set((await statuses(scene, key, on("user-ada", OBJECTS))).values()) == {403}


# Hub, proxy and storage service

HUB_REFUSES = [
    ("GET", "info"),
    ("GET", "users"),
    ("GET", "users/ada"),
    ("PATCH", "users/bob"),
    ("DELETE", "users/ada"),
    ("POST", "users/mallory"),
    ("GET", "users/ada/server/progress"),
    ("POST", "users/ada/server"),
    ("DELETE", "users/ada/server"),
    ("DELETE", "users/bob/server"),
    ("POST", "users/ada/activity"),
    ("GET", "users/bob/tokens"),
    ("POST", "users/bob/tokens"),
    ("POST", "users/ada/tokens"),
    ("GET", "users/ada/shared"),
    ("GET", "groups"),
    ("POST", "groups/admins/users"),
    ("GET", "services"),
    ("GET", "services/storage"),
    ("GET", "proxy"),
    ("PATCH", "proxy"),
    ("POST", "shutdown"),
    ("POST", "shares/ada/"),
]


async def test_the_token_of_a_server_opens_little_at_the_hub(scene: scenes.Scene) -> None:
    hub = scene.ports["hub"]
    status, text = await scene.get(f"request({hub}, 'GET', '/hub/api/user', own)")
    assert status == 200
    assert json.loads(text)["name"] == "bob"
    assert not json.loads(text)["admin"]
    assert {each for each in json.loads(text)["scopes"] if not each.startswith("read:users")} == {
        "access:servers!server=bob/",
        "custom:habari:buckets:read!user=bob",
        "custom:habari:keys:read!user=bob",
        "users:activity!user=bob",
    }
    for method, path in HUB_REFUSES:
        answer = await scene.get(f"request({hub}, {method!r}, '/hub/api/{path}', posting, '{{}}')")
        assert answer[0] in (403, 404), (method, path, answer)


@pytest.mark.parametrize("page", ["home", "admin", "token", "account", "spawn", "spawn/ada", "metrics"])
async def test_the_token_of_a_server_opens_no_page(scene: scenes.Scene, page: str) -> None:
    status, _ = await scene.get(f"request({scene.ports['hub']}, 'GET', '/hub/{page}', own)")
    assert status in (302, 403)


async def test_the_proxys_own_interface_asks_for_a_password(scene: scenes.Scene) -> None:
    port, public = scene.ports["proxy-api"], scene.ports["port"]
    guesses = ["{}", "own"] + [f"{{'Authorization': basic({each!r})}}" for each in ("hub:", "admin:admin", "hub:hub")]
    for headers in guesses:
        for path in ("/api/rawdata", "/api/http/routers", "/api/overview", "/dashboard/", "/debug/pprof/", "/metrics"):
            for method in ("GET", "PUT", "POST"):
                assert (await scene.get(f"request({port}, {method!r}, {path!r}, {headers})"))[0] in REFUSED
    password = (scene.platform.folder / "secrets" / "hub" / "proxy_password").read_text().strip()
    control = f"request({port}, 'GET', '/api/rawdata', {{'Authorization': basic({'hub:' + password!r})}})[0]"
    assert await scene.kernel.ask(f"print(json.dumps({control}))") == 200
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "traefik"):
        answer = await scene.get(f"request({public}, 'GET', '/api/rawdata', {{'Host': {host!r}}})")
        assert answer[0] in REFUSED | {302}, "the same path on the public port is not the interface"
        assert "routers" not in answer[1]


async def test_the_storage_service_knows_who_asks(scene: scenes.Scene) -> None:
    base, port = "/services/storage/api/v1", scene.ports["storage"]
    mine = json.loads((await scene.get(f"request({port}, 'GET', '{base}/me', own)"))[1])
    assert (mine["user"], mine["bucket"]) == ("bob", "user-bob")
    for path in ("me?user=ada", "me?name=ada", "me?owner=ada"):
        assert json.loads((await scene.get(f"request({port}, 'GET', '{base}/{path}', own)"))[1])["user"] == "bob"
    for name in ("X-Forwarded-User", "X-User", "X-Remote-User", "Remote-User", "X-JupyterHub-User"):
        answer = await scene.get(f"request({port}, 'GET', '{base}/me', own | {{{name!r}: 'ada'}})")
        assert json.loads(answer[1])["user"] == "bob"
    for headers in ("{}", "{'Authorization': 'token garbage'}", "{'Authorization': 'token '}", "{'Authorization': ''}"):
        for path in ("me", "me/buckets"):
            assert (await scene.get(f"request({port}, 'GET', '{base}/{path}', {headers})"))[0] == 401
    person = {"issuer": "local", "subject": "x"}
    bodies = {"check": person, "ensure": {**person, "admin": True, "groups": ["admins"]}}
    for headers in ("posting", "posting | {'Authorization': own['Authorization'].replace('token', 'Bearer')}", "{}"):
        for name in ("ada", "bob", "mallory"):
            for what, body in bodies.items():
                asked = f"request({port}, 'POST', '{base}/users/{name}/{what}', {headers}, {json.dumps(body)!r})"
                assert (await scene.get(asked))[0] in (401, 422), asked
    for path in ("users/ada", "users/ada/me", "users", "../../../metrics", "me/../users"):
        assert (await scene.get(f"request({port}, 'GET', '{base}/{path}', own)"))[0] == 404


# Another's Jupyter server

JUPYTER = [
    ("GET", "api/contents"),
    ("GET", "api/contents/diary-of-ada.txt"),
    ("PUT", "api/contents/planted.txt"),
    ("GET", "files/diary-of-ada.txt"),
    ("GET", "api/kernels"),
    ("POST", "api/kernels"),
    ("GET", "api/sessions"),
    ("GET", "api/terminals"),
    ("POST", "api/terminals"),
    ("GET", "api/status"),
    ("POST", "api/shutdown"),
    ("GET", "metrics"),
    ("GET", "lab"),
    ("GET", "lab/api/settings"),
    ("GET", "terminals/websocket/1"),
]


async def test_anothers_server_takes_no_token_but_its_own(scene: scenes.Scene) -> None:
    speaking = [each for each in scene.hers_ports if (await scene.get(f"request({each}, 'GET', '/')"))[0] == 404]
    assert speaking, "the port of her server, not those of her kernels"
    token = await scene.get("own['Authorization'].split()[1]")
    for port in speaking:
        for headers in ("{}", "own", "{'Authorization': 'token x'}", "{'Cookie': 'jupyterhub-user-ada=x'}"):
            for method, path in JUPYTER:
                for query in ("", f"?token={token}") if headers == "{}" else ("",):
                    answer = await scene.get(f"request({port}, {method!r}, '/user/ada/{path}{query}', {headers})")
                    assert answer[0] in REFUSED | {302}, (headers, path, answer)
        hers = {"Authorization": f"token {scene.hers['JUPYTERHUB_API_TOKEN']}"}
        control = f"request({port}, 'GET', '/user/ada/api/contents/diary-of-ada.txt', {hers})"
        assert (await scene.kernel.ask(f"print(json.dumps({control}))"))[0] == 200
    public = scene.ports["port"]
    for method, path in JUPYTER:
        for host in (f"ada.localhost:{public}", f"bob.localhost:{public}", f"localhost:{public}"):
            headers = f"own | {{'Host': {host!r}}}"
            answer = await scene.get(f"request({public}, {method!r}, '/user/ada/{path}', {headers})")
            assert answer[0] in REFUSED | {302}, (host, path, answer)


async def test_bobs_browser_does_not_enter_anothers_server(scene: scenes.Scene) -> None:
    for path in ("lab", "api/contents", "files/diary-of-ada.txt"):
        async with scene.bob._session.get(f"{scene.bob.url}/hub/user/ada/{path}") as answer:
            text = await answer.text()
            assert answer.status in (403, 404), text
            assert scenes.SECRET not in text


async def test_bobs_server_gets_no_cookie_that_opens_the_hub(scene: scenes.Scene) -> None:
    """Whoever follows a link to a page of bob's server shows it only what is meant for all servers."""
    import yarl  # noqa: PLC0415 - used here alone

    sent = scene.ada._session.cookie_jar.filter_cookies(yarl.URL(f"{scene.bob.server}/"))
    assert set(sent) <= {"jupyterhub-session-id"}
    at_home = scene.ada._session.cookie_jar.filter_cookies(yarl.URL(f"{scene.ada.url}/hub/"))
    assert "jupyterhub-hub-login" in at_home


def _public(bucket: str) -> str:
    everything = {"Effect": "Allow", "Principal": "*", "Action": ["s3:*"]}
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return json.dumps({"Version": "2012-10-17", "Statement": [{**everything, "Resource": resources}]})
