"""Fixtures for all tests: an environment without anybody's keys, and one embedded object store a session."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from habari.core import model
from habari.local import child, folder, objectstore, ports


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_", "HABARI_", "JUPYTERHUB_")):
            monkeypatch.delenv(name)


@dataclasses.dataclass(frozen=True)
class RunningStore:
    """The embedded object store of this test session.

    Attributes:
        url: Its S3 endpoint.
        key: Its admin's key.
        pid: Its process.
        store: How it was started.
    """

    url: str
    key: model.AccessKey
    pid: int
    store: objectstore.Store


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    """Yield a running embedded object store; buckets and identities in it are shared by the session's tests."""
    data = folder.Folder.prepare(tmp_path_factory.mktemp("store"))
    chosen = ports.choose(data, objectstore.PORTS, offsets=(0, objectstore.GRPC_OFFSET))
    store = objectstore.Store(data.path / "objects", data.path / "secrets", chosen, reserve_gib=0)
    store.prepare()
    with Path(data.path / "logs" / "object-store.log").open("wb") as log:
        process = subprocess.Popen(
            child.command(store.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=store.environment(),
            cwd=store.cwd,
            umask=objectstore.UMASK,
        )
    try:
        asyncio.run(store.ready())
        yield RunningStore(store.url, store.admin_key(), process.pid, store)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
