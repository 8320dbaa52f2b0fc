"""The service as a process, over the embedded object store and a real hub."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import httpx
import pytest
from cryptography import fernet

from habari.core import model
from habari.storage import seaweedfs

LAUNCH_TOKEN = "launch-token-of-the-process"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the service would start, if its store and hub were there."""
    folder = tmp_path / "secrets"
    folder.mkdir(0o700)
    for name, text in {
        "store_access_key_id": "ADMIN",
        "store_secret_access_key": "secret",
        "encryption_keys": fernet.Fernet.generate_key().decode(),
        "launch_token": LAUNCH_TOKEN,
        "service_token": "service-token",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "PATH": os.environ["PATH"],
        "HABARI_SECRETS": str(folder),
        "HABARI_DATABASE_URL": f"sqlite:///{tmp_path}/storage.sqlite",
        "HABARI_STORE_URL": "http://127.0.0.1:9",
        "HABARI_LISTEN": f"127.0.0.1:{port}",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
    }


@contextlib.contextmanager
def running(environ: dict[str, str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run the service until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "habari.service"], env=environ, stdout=output, stderr=output)
    try:
        url = f"http://{environ['HABARI_LISTEN']}/services/storage/api/v1/"
        with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {LAUNCH_TOKEN}"}) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def refusal(environ: dict[str, str]) -> str:
    """Return what the service says when it does not start; it must be one line, with exit status 2."""
    ended = subprocess.run(
        [sys.executable, "-m", "habari.service"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    return ended.stderr.strip()


def test_what_an_operator_must_mend_is_one_sentence_and_status_2(environ: dict[str, str], tmp_path: Path) -> None:
    assert refusal({**environ, "HABARI_STORE_URL": ""}).startswith("The environment variable HABARI_STORE_URL is not")
    address = environ["HABARI_LISTEN"]
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        assert refusal(environ) == (
            f"The storage service cannot listen on {address}: Address already in use. HABARI_LISTEN names the address."
        )
    (tmp_path / "habari.yaml").write_text("colour: x")
    assert refusal({**environ, "HABARI_CONFIG": str(tmp_path / "habari.yaml")}).startswith(f"{tmp_path}/habari.yaml, ")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_without_store_and_hub_and_ends_quietly(
    environ: dict[str, str], tmp_path: Path, wait_for: Any, stop: signal.Signals
) -> None:
    log = tmp_path / "log"
    with running(environ, log) as (process, client):
        wait_for(f"{client.base_url}health", lambda: process.poll() is None, log)
        ready = client.get("ready")
        assert ready.status_code == 503
        assert model.ErrorBody.model_validate_json(ready.content)
        answer = client.post("users/ada/ensure", json={"issuer": "local", "subject": "1"})
        assert model.Step.model_validate_json(answer.text.splitlines()[-1]).state == "failed"
        assert oct((tmp_path / "storage.sqlite").stat().st_mode & 0o777) == "0o600"
        process.send_signal(stop)
        assert process.wait(20) == 0
    text = log.read_text()
    assert "Traceback" not in text
    assert LAUNCH_TOKEN not in text


def s3(me: model.Me) -> Any:
    """Return an S3 client as a user's kernel would have it."""
    return boto3.client(
        "s3",
        endpoint_url=me.endpoint_url,
        region_name=me.region,
        aws_access_key_id=me.keys.access_key_id,
        aws_secret_access_key=me.keys.secret_access_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )


@pytest.mark.s3
@pytest.mark.hub
def test_two_users_through_the_real_store_and_hub(
    environ: dict[str, str], tmp_path: Path, object_store: Any, hub: Any, wait_for: Any
) -> None:
    secrets = Path(environ["HABARI_SECRETS"])
    (secrets / "store_access_key_id").write_text(object_store.key.access_key_id)
    (secrets / "store_secret_access_key").write_text(object_store.key.secret_access_key)
    (secrets / "service_token").write_text(hub.admin_token)
    (tmp_path / "habari.yaml").write_text("buckets: {prefix: main-}")
    environ |= {
        "HABARI_STORE_URL": object_store.url,
        "JUPYTERHUB_API_URL": hub.api_url,
        "HABARI_CONFIG": str(tmp_path / "habari.yaml"),
    }
    log = tmp_path / "log"
    seen: dict[str, model.Me] = {}
    for number in range(2):  # the second time after a kill, with everything still there
        with running(environ, log) as (process, client):
            wait_for(f"{client.base_url}ready", lambda: process.poll() is None, log)
            for name, admin in (("main-a", False), ("main-b", True)):
                if number == 0:
                    hub.make_user(name)
                answer = client.post(f"users/{name}/ensure", json={"issuer": "local", "subject": name, "admin": admin})
                assert '"ready"' in answer.text, answer.text
                token, _ = hub.make_token(name, f"custom:habari:keys:read!user={name}")
                told = client.get("me", headers={"Authorization": f"token {token}"})
                me = model.Me.model_validate_json(told.content)
                assert seen.setdefault(name, me) == me
                assert token not in log.read_text()
                assert me.keys.secret_access_key not in log.read_text()
            process.kill()
            process.wait()
    one, other = s3(seen["main-a"]), s3(seen["main-b"])
    one.put_object(Bucket="main-user-main-a", Key="x", Body=b"1")
    one.put_object(Bucket="main-notebooks", Key="n", Body=b"2")
    other.put_object(Bucket="main-lake", Key="l", Body=b"3")
    assert one.get_object(Bucket="main-lake", Key="l")["Body"].read() == b"3"
    for client, bucket in ((one, "main-lake"), (one, "main-user-main-b"), (other, "main-user-main-a")):
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            client.put_object(Bucket=bucket, Key="y", Body=b"")
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        other.get_object(Bucket="main-user-main-a", Key="x")
    for file in tmp_path.glob("storage.sqlite*"):
        assert file.stat().st_mode & 0o777 == 0o600
        assert seen["main-a"].keys.secret_access_key.encode() not in file.read_bytes()


@pytest.mark.s3
async def test_interrupted_at_any_call_of_the_real_store(opened: Any, object_store: Any) -> None:
    store = seaweedfs.SeaweedFS(object_store.url, object_store.key)
    declared = "buckets: {{prefix: cut{}-, common: [{{name: lake}}]}}"
    try:
        async with opened(store=store, declared=declared.format(0), folder="-count") as service:
            await service.ensure("count", admin=True)
            count = len(service.faulty.calls)
        for number in range(1, count + 1):
            async with opened(store=store, declared=declared.format(number), folder=f"-{number}") as service:
                service.faulty.fail_at, service.faulty.after = number, True
                assert (await service.ensure("ada", admin=True))[-1].state == "failed"
                assert (await service.ensure("ada", admin=True))[-1].step == "ready"
                me = await service.views.me("ada")
                assert await store.list_keys(me.bucket) == [me.keys.access_key_id]
            client = s3(me)
            for bucket in (me.bucket, f"cut{number}-lake"):
                await asyncio.to_thread(client.put_object, Bucket=bucket, Key="x", Body=b"")
    finally:
        await store.close()


@pytest.mark.s3
async def test_the_sweep_repairs_the_real_store(opened: Any, object_store: Any) -> None:
    store = seaweedfs.SeaweedFS(object_store.url, object_store.key)
    try:
        async with opened(store=store, declared="buckets: {prefix: sweep-}") as service:
            await service.ensure("ada")
            me = await service.views.me("ada")
            before = await store.get_policy(me.bucket)
            await store.set_policy(me.bucket, None)
            await store.set_group_policy("sweep-everyone", None)
            stray = await store.create_key(me.bucket)
            await service.keeper.sweep()
            assert await store.get_policy(me.bucket) == before
            assert await store.get_group_policy("sweep-everyone")
            assert await store.list_keys(me.bucket) == [me.keys.access_key_id]
            await store.delete_identity(me.bucket)
            await service.keeper.sweep()
            anew = await service.views.me("ada")
            assert anew.keys.access_key_id not in {me.keys.access_key_id, stray.access_key_id}
            await asyncio.to_thread(s3(anew).put_object, Bucket="sweep-notebooks", Key="x", Body=b"")
    finally:
        await store.close()
