"""Users' servers on one machine, with a real hub: they outlive the hub, end with the platform, and say why they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import hub_process
import pytest
import storage_stand_in

from habari.core import errors
from habari.local import accounts, homes, sandbox, servers, spawner


@pytest.fixture
async def storage() -> AsyncIterator[storage_stand_in.StorageStandIn]:
    async with storage_stand_in.StorageStandIn().serving() as serving:
        yield serving


@pytest.fixture
async def hub(tmp_path: Path, storage: storage_stand_in.StorageStandIn) -> AsyncIterator[hub_process.Hub]:
    try:
        sandbox.check(uid=homes.FIRST_UID if os.geteuid() == 0 else None)
    except errors.ConfigError as error:
        pytest.skip(str(error))
    # Where habari is installed from its sources, its own file that switches the extension on is not in place.
    made = hub_process.Hub(
        tmp_path / "data", storage.url, TEST_ARGS="--ServerApp.jpserver_extensions=habari.server=True"
    )
    made.passwords = {name: accounts.add(made.data / accounts.FILE, name) for name in ("ada", "bob")}
    await asyncio.to_thread(made.start)
    try:
        yield made
    finally:
        await servers.stop_all(made.data)
        await asyncio.to_thread(made.stop)


def address(log: Path) -> str:
    """Return where the server last said it runs."""
    lines = [line for line in log.read_text().splitlines() if "http://127.0.0.1:" in line and "/user/" in line]
    return lines[-1].split("] ")[-1].split("/user/")[0].strip()


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url)


@pytest.mark.hub
async def test_a_server_outlives_its_hub_and_ends_with_the_platform(hub: hub_process.Hub) -> None:
    async with hub_process.Browser.of(hub) as ada:
        await ada.sign_in("ada", hub.passwords["ada"])
        events = await ada.launch("ada")
        assert events[-1].get("ready"), (events, log_of(hub, "ada"))
        process = servers.read(hub.data, "ada")
        assert process
        assert servers.alive(process)
        url = address(hub.data / "logs" / "servers" / "ada.log")
        assert (await get(f"{url}/user/ada/api")).status_code == 200

        await asyncio.to_thread(hub.stop, signal.SIGKILL)
        assert servers.alive(process)
        assert (await get(f"{url}/user/ada/api")).status_code == 200
        await asyncio.to_thread(hub.start)
        seen = (await ada.api("GET", "/users/ada")).json()["servers"][""]
        assert seen["ready"]
        assert servers.alive(process)

        # Stopped by the hub that did not start it.
        assert (await ada.api("DELETE", "/users/ada/server")).status_code in {202, 204}
        async with asyncio.timeout(20):
            while servers.alive(process):
                await asyncio.sleep(0.05)

        # What a hub that is gone left running ends with the platform.
        assert (await ada.launch("ada"))[-1].get("ready")
        process = servers.read(hub.data, "ada")
        assert process
        await asyncio.to_thread(hub.stop, signal.SIGKILL)
        await servers.stop_all(hub.data)
        assert not servers.alive(process)
        assert servers.read(hub.data, "ada") is None
        await asyncio.to_thread(hub.start)
        async with asyncio.timeout(20):
            while (await ada.api("GET", "/users/ada")).json()["servers"]:
                await asyncio.sleep(0.1)


@pytest.mark.hub
async def test_a_server_that_dies_is_noticed_at_once(hub: hub_process.Hub) -> None:
    async with hub_process.Browser.of(hub) as ada:
        await ada.sign_in("ada", hub.passwords["ada"])
        assert (await ada.launch("ada"))[-1].get("ready")
        process = servers.read(hub.data, "ada")
        assert process
        servers.end(process)
        async with asyncio.timeout(4):  # the hub's own look around comes every 5 seconds
            while (await ada.api("GET", "/users/ada")).json()["servers"]:
                await asyncio.sleep(0.05)


@pytest.mark.hub
async def test_the_reason_of_a_server_that_ends_is_on_the_page(
    hub: hub_process.Hub, storage: storage_stand_in.StorageStandIn
) -> None:
    storage.refusal = "The identity of ada is retired. Ask an administrator."
    async with hub_process.Browser.of(hub) as ada:
        await ada.sign_in("ada", hub.passwords["ada"])
        events = await ada.launch("ada")
        assert events[-1]["failed"]
        assert "Your server ended while starting. It said:" in events[-1]["message"]
        assert "The identity of ada is retired." in events[-1]["message"]
        assert not list((hub.data / servers.FOLDER).glob("ada*"))


def log_of(hub: hub_process.Hub, name: str) -> str:
    return (hub.data / "logs" / "servers" / f"{name}.log").read_text()[-4000:]


def test_a_process_is_not_taken_for_another_with_its_id() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = servers.find(child.pid, sandboxed=False)
    assert found
    assert servers.alive(found)
    assert not servers.alive(servers.Process(found.pid, found.started + 1))
    child.communicate(b"\n")
    assert not servers.alive(found)
    assert servers.find(child.pid, sandboxed=False) is None


def test_what_was_not_written_down_is_not_read(tmp_path: Path) -> None:
    assert servers.read(tmp_path, "ada") is None
    servers.write_down(tmp_path, "ada", servers.Process(1, 2))
    assert servers.read(tmp_path, "ada") == servers.Process(1, 2)
    (tmp_path / servers.FOLDER / "ada").write_text("{}")
    assert servers.read(tmp_path, "ada") is None
    servers.strike_out(tmp_path, "ada")
    servers.strike_out(tmp_path, "ada")


async def test_a_server_that_will_not_end_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout
    assert await child.stdout.readline() == b"up\n"
    found = servers.find(child.pid, sandboxed=False)
    assert found
    servers.write_down(tmp_path, "ada", found)
    await servers.stop(found, timeout_s=0.2)
    assert await child.wait() == -signal.SIGKILL
    await servers.stop_all(tmp_path)
    assert servers.read(tmp_path, "ada") is None


def test_the_last_line_is_what_the_person_reads(tmp_path: Path) -> None:
    log = tmp_path / "ada.log"
    assert spawner.last_line(log) == ""
    log.write_text("first\n\nThe keys could not be had.\n\n[I 2026-11-22 15:33:37.612 ServerApp] Shutting down\n")
    assert spawner.last_line(log) == "The keys could not be had."
    log.write_text("[I 2026-11-22 15:33:37.612 ServerApp] Serving contents\n")
    assert spawner.last_line(log) == "[I 2026-11-22 15:33:37.612 ServerApp] Serving contents"


@pytest.mark.hub
async def test_without_isolation_the_first_user_is_the_only_one(
    tmp_path: Path, storage: storage_stand_in.StorageStandIn
) -> None:
    hub = hub_process.Hub(tmp_path / "data", storage.url, HABARI_ISOLATION="0")
    hub.passwords = {name: accounts.add(hub.data / accounts.FILE, name, admin=True) for name in ("ada", "bob")}
    await asyncio.to_thread(hub.start)
    try:
        async with hub_process.Browser.of(hub) as ada, hub_process.Browser.of(hub) as bob:
            assert (await ada.sign_in("ada", hub.passwords["ada"])).status_code == 302
            refused = await bob.sign_in("bob", hub.passwords["bob"])
            assert refused.status_code == 403
            assert "runs without isolation, so only &#39;ada&#39; may use it." in refused.text
            assert (await ada.launch("ada"))[-1].get("ready"), log_of(hub, "ada")
            process = servers.read(hub.data, "ada")
            assert process
            assert not process.sandboxed
            assert (await ada.api("DELETE", "/users/ada/server")).status_code in {202, 204}
            async with asyncio.timeout(20):
                while servers.alive(process):
                    await asyncio.sleep(0.05)
    finally:
        await servers.stop_all(hub.data)
        await asyncio.to_thread(hub.stop)
