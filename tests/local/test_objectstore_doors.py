"""Every way into the embedded object store without a key is tried, from where a user's kernel stands: loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import botocore.config
import pytest

from habari.core import model
from habari.local import certificates, objectstore

pytestmark = pytest.mark.s3

OFFSETS = (0, objectstore.GRPC_OFFSET)


def client(service: str, url: str, key: model.AccessKey) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )


@pytest.fixture(scope="module")
def secret_bucket(object_store: Any) -> str:
    s3 = client("s3", object_store.url, object_store.key)
    s3.create_bucket(Bucket="secret-bucket")
    s3.put_object(Bucket="secret-bucket", Key="secret-key", Body=b"secret-content")
    return "secret-bucket"


BACK_DOORS = [
    ("store-filer", "GET", "/"),
    ("store-filer", "GET", "/buckets/"),
    ("store-filer", "GET", "/buckets/secret-bucket/secret-key"),
    ("store-filer", "PUT", "/buckets/secret-bucket/planted"),
    ("store-filer", "POST", "/buckets/secret-bucket/planted"),
    ("store-filer", "DELETE", "/buckets/secret-bucket/secret-key"),
    ("store-filer", "GET", "/etc/iam/"),
    ("store-filer", "GET", "/etc/iam/identity.json"),
    ("store-filer", "GET", "/?metadata=true"),
    ("store-filer", "GET", "/.tus/"),
    ("store-master", "GET", "/dir/assign?collection=secret-bucket"),
    ("store-master", "GET", "/dir/lookup?collection=secret-bucket&volumeId=1"),
    ("store-master", "GET", "/dir/status"),
    ("store-master", "GET", "/vol/status"),
    ("store-master", "GET", "/vol/grow?count=1"),
    ("store-master", "GET", "/col/delete?collection=secret-bucket"),
    ("store-master", "POST", "/col/delete?collection=secret-bucket"),
    ("store-master", "POST", "/submit"),
    ("store-volume", "GET", "/ui/index.html"),
    ("store-volume", "GET", "/stats/disk"),
    ("store-volume", "GET", "/1,01637037d6"),
    ("store-volume", "PUT", "/1,01637037d6"),
    ("store-volume", "DELETE", "/1,01637037d6"),
    ("store-admin", "GET", "/"),
    ("store-admin", "POST", "/login"),
    ("store-admin", "GET", "/api/s3/buckets"),
    ("store-admin", "GET", "/api/users"),
    ("store-admin", "POST", "/api/users"),
    ("store-admin", "DELETE", "/api/s3/buckets/secret-bucket"),
    ("store-s3", "GET", "/"),
    ("store-s3", "GET", "/secret-bucket"),
    ("store-s3", "GET", "/secret-bucket/secret-key"),
    ("store-s3", "PUT", "/secret-bucket/planted"),
    ("store-s3", "DELETE", "/secret-bucket/secret-key"),
    ("store-s3", "PUT", "/planted-bucket"),
    ("store-s3", "POST", "/?Action=CreateUser&UserName=planted"),
    ("store-s3", "POST", "/?Action=ListUsers"),
    ("store-s3", "GET", "/metrics"),
    ("store-s3", "GET", "/debug/pprof/"),
]


@pytest.mark.parametrize(("port", "method", "path"), BACK_DOORS)
async def test_a_back_door_is_closed(object_store: Any, secret_bucket: str, port: str, method: str, path: str) -> None:
    url = f"http://127.0.0.1:{object_store.store.ports[port]}{path}"
    data = b"x" if method in ("PUT", "POST") else None
    async with aiohttp.ClientSession() as session, session.request(method, url, data=data) as answer:
        assert answer.status in (400, 401, 403, 404, 405)
        assert "secret-content" not in await answer.text()
    s3 = client("s3", object_store.url, object_store.key)
    assert s3.get_object(Bucket=secret_bucket, Key="secret-key")["Body"].read() == b"secret-content"
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=secret_bucket)["Contents"]] == ["secret-key"]


@pytest.mark.parametrize(
    ("port", "path"),
    [
        ("store-master", "/"),
        ("store-master", "/cluster/status"),
        ("store-volume", "/status"),
        ("store-admin", "/metrics"),
    ],
)
async def test_what_stays_readable_holds_no_content_and_no_key(
    object_store: Any, secret_bucket: str, port: str, path: str
) -> None:
    s3 = client("s3", object_store.url, object_store.key)
    s3.head_object(Bucket=secret_bucket, Key="secret-key")
    url = f"http://127.0.0.1:{object_store.store.ports[port]}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    for hidden in ("secret-key", "secret-content", object_store.key.access_key_id, object_store.key.secret_access_key):
        assert hidden not in text


def test_every_port_listens_on_loopback_only_and_nothing_is_dialled_outside(object_store: Any) -> None:
    inodes = set()
    for each in Path(f"/proc/{object_store.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(each.readlink()).removeprefix("socket:[").removesuffix("]"))
    seen = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{object_store.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                seen |= {fields[1].split(":")[0], fields[2].split(":")[0]}
    assert seen <= {"0100007F", "00000000"}, "expected 127.0.0.1, and 0.0.0.0 as the far end of a listener"
    listening = {port + offset for port in object_store.store.ports.values() for offset in OFFSETS}
    for port in listening:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize("port", objectstore.PORTS)
@pytest.mark.parametrize("credentials", ["none", "forged", "ours"])
def test_grpc_talks_to_our_certificates_only(object_store: Any, tmp_path: Path, port: str, credentials: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if credentials == "forged":
        certificates.ensure(tmp_path, ["client"])
    if credentials != "none":
        where = tmp_path if credentials == "forged" else object_store.store.config
        context.load_cert_chain(where / "client.crt", where / "client.key")
    answer = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        address = ("127.0.0.1", object_store.store.ports[port] + objectstore.GRPC_OFFSET)
        with socket.create_connection(address, timeout=5) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answer = tls.recv(64)
    assert bool(answer) == (credentials == "ours")


@pytest.mark.parametrize("port", objectstore.PORTS)
def test_grpc_does_not_talk_in_clear(object_store: Any, port: str) -> None:
    answer = b""
    address = ("127.0.0.1", object_store.store.ports[port] + objectstore.GRPC_OFFSET)
    with contextlib.suppress(ConnectionError), socket.create_connection(address, timeout=5) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = plain.recv(64)
    assert answer == b""


@pytest.mark.parametrize("forged", [False, True])
def test_the_administration_shell_needs_our_certificates(
    object_store: Any, secret_bucket: str, tmp_path: Path, *, forged: bool
) -> None:
    if forged:
        other = objectstore.Store(tmp_path / "objects", tmp_path / "secrets", object_store.store.ports, 0)
        other.prepare()
        config = other.config
    else:
        config = tmp_path
    master, filer = object_store.store.ports["store-master"], object_store.store.ports["store-filer"]
    argv = [str(objectstore.find_program()), f"-config_dir={config}", "shell", f"-master=127.0.0.1:{master}"]
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*argv, f"-filer=127.0.0.1:{filer}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=tmp_path,
    ) as process:
        try:
            output, _ = process.communicate(b"fs.ls /buckets\ns3.user.list\nexit\n", timeout=4)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    assert secret_bucket.encode() not in output


async def test_our_own_shell_gets_in(object_store: Any, secret_bucket: str) -> None:
    assert secret_bucket in await object_store.store.shell("fs.ls /buckets")


# Files


def test_nobody_else_on_the_machine_can_read_anything(object_store: Any, secret_bucket: str) -> None:
    store = object_store.store
    for each in (store.folder, store.secrets, store.config, store.cwd, store.secrets / "storage"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700, each
    for path in store.secrets.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    data = [path for path in store.folder.rglob("*") if path.suffix in (".dat", ".idx", ".sock", ".ldb", ".log")]
    assert any(path.name.startswith(secret_bucket) for path in data)
    for path in data:
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
    for role in objectstore.PORTS:
        port = store.ports[role] + objectstore.GRPC_OFFSET
        shared = Path(f"/tmp/seaweedfs-{role.removeprefix('store-')}-grpc-{port}.sock")  # noqa: S108 - not our choice
        assert not stat.S_IMODE(shared.stat().st_mode) & 0o077, shared


def test_no_secret_is_an_argument_or_in_a_log(object_store: Any) -> None:
    iam = client("iam", object_store.url, object_store.key)
    iam.create_user(UserName="user-logged")
    made = iam.create_access_key(UserName="user-logged")["AccessKey"]["SecretAccessKey"]
    arguments = Path(f"/proc/{object_store.pid}/cmdline").read_text()
    logs = [*object_store.store.cwd.glob("weed.*.log.*"), *object_store.store.folder.parent.glob("logs/*")]
    assert len(logs) > 1
    for secret in (object_store.key.secret_access_key, made):
        assert secret not in arguments
        assert not [path for path in logs if secret in path.read_text(errors="replace")]


async def test_statistics_are_not_sent_and_objects_are_written_to_disk(object_store: Any) -> None:
    kept = (object_store.store.folder / "mini.options").read_text()
    assert "master.telemetry=false" in kept.splitlines()
    await object_store.store.after_start()
    rule = objectstore._last_rule(await object_store.store.shell("fs.configure"))
    assert rule["fsync"] is True
    assert rule["volumeGrowthCount"] == 1
