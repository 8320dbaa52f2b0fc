"""The platform as its operator sees it: parts that die, every way to stop it, and where its secrets are."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import person
import platform_process
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from habari.local import accounts

pytestmark = pytest.mark.hub

PARTS = ("object store", "proxy", "storage service", "hub", "idle culler")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platform_process.Platform]:
    running = platform_process.Platform(tmp_path_factory.mktemp("habari") / "data")
    running.start()
    yield running
    assert running.stop() == 0
    assert running.processes() == {}


@pytest.fixture
def account(platform: platform_process.Platform) -> Callable[[str], person.Person]:
    def make(name: str) -> person.Person:
        file = platform.folder / accounts.FILE
        known = name in {each["name"] for each in accounts.list_all(file)}
        password = accounts.reset_password(file, name) if known else accounts.add(file, name)
        return person.Person(platform.url, name, password)

    return make


def _pid(platform: platform_process.Platform, part: str) -> int:
    status = json.loads((platform.folder / "run" / "status.json").read_text())
    return int(status["parts"][part]["pid"])


def _habari(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "habari.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_second_up_on_the_folder_is_refused(platform: platform_process.Platform) -> None:
    second = _habari("up", "--dir", platform.folder, "--port", "0")
    assert second.returncode == 2
    assert second.stderr == (
        f"habari: Habari runs on {platform.folder} already (process {platform.pid}). "
        f"Stop it with: habari down --dir {platform.folder}\n"
    )


def test_status_shows_every_part(platform: platform_process.Platform) -> None:
    shown = _habari("status", "--dir", platform.folder)
    assert shown.returncode == 0
    assert f"Habari runs at {platform.url} on {platform.folder}." in shown.stdout
    for part in PARTS:
        assert re.search(rf"{part}\s+ready\s+\d+\s+\d", shown.stdout), shown.stdout


async def test_what_was_acknowledged_survives_the_kill_of_every_part(
    platform: platform_process.Platform, account: Callable[[str], person.Person]
) -> None:
    async with account("kit") as kit:
        assert await kit.sign_in() == 200
        await kit.launch()
        text = {"type": "file", "format": "text", "content": "kept"}
        for path in ("home.txt", "buckets/user-kit/bucket.txt"):
            status, model = await kit.request("PUT", f"api/contents/{path}", json=text)
            assert status == 201, model
        for part in PARTS:
            platform.lines.clear()
            os.kill(_pid(platform, part), signal.SIGKILL)
            await asyncio.to_thread(platform.wait_for, f"The {part} ended (killed by SIGKILL); starting it again.")
            await asyncio.to_thread(platform.wait_for, f"The {part} runs again.")
            for path in ("home.txt", "buckets/user-kit/bucket.txt"):
                assert (await kit.contents(path))["content"] == "kept", part
        # The server that was launched before all this still runs, and new ones can be launched.
        assert await kit.run("print(6 * 7)") == "42\n"
        await kit.stop_server()
        await kit.launch()
        assert "user-kit" in await kit.names("buckets")


async def test_a_kernel_outlives_a_restart_of_the_hub(
    platform: platform_process.Platform, account: Callable[[str], person.Person]
) -> None:
    async with account("kit") as kit:
        await kit.sign_in()
        await kit.launch()
        status, kernel = await kit.request("POST", "api/kernels", json={"name": "python3"})
        assert status == 201
        platform.lines.clear()
        os.kill(_pid(platform, "hub"), signal.SIGTERM)
        await asyncio.to_thread(platform.wait_for, "The hub runs again.")
        status, again = await kit.request("GET", f"api/kernels/{kernel['id']}")
        assert (status, again["id"]) == (200, kernel["id"])


async def test_a_name_that_returns_as_another_person_is_not_let_in(platform: platform_process.Platform) -> None:
    file = platform.folder / accounts.FILE
    async with person.Person(platform.url, "rin", accounts.add(file, "rin")) as rin:
        assert await rin.sign_in() == 200
        await rin.launch()
    accounts.remove(file, "rin")
    async with person.Person(platform.url, "rin", accounts.add(file, "rin")) as other:
        assert await other.sign_in() == 409
        assert "'rin'" in other.page
        assert "another person" in other.page


async def test_nobody_signs_in_under_a_new_name_while_the_storage_service_is_away(
    platform: platform_process.Platform, account: Callable[[str], person.Person]
) -> None:
    pid = _pid(platform, "storage service")
    async with account("kit") as kit, account("new") as new:
        os.kill(pid, signal.SIGSTOP)
        try:
            # The hub has seen kit before; of the new one nobody can tell whether the name is free.
            assert await kit.sign_in() == 200
            assert await new.sign_in() == 503
            assert "The storage service does not answer" in new.page
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await new.sign_in() == 200


async def test_no_secret_is_where_it_must_not_be(
    platform: platform_process.Platform, account: Callable[[str], person.Person]
) -> None:
    async with account("kit") as kit:
        await kit.sign_in()
        await kit.launch()
        keys = (await kit.run("import os; print(os.environ['AWS_SECRET_ACCESS_KEY'])")).strip()
        token = (await kit.run("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")).strip()
    assert len(keys) >= 32
    secrets = {keys, token, kit.password}
    for file in (platform.folder / "secrets").rglob("*"):
        if file.is_file() and not file.name.endswith((".crt", ".toml")):
            secrets |= {line for line in file.read_text().split("\n") if len(line) >= 32 and "-----" not in line}
    arguments = " ".join(platform.processes().values())
    logs = {log: log.read_text(errors="replace") for log in (platform.folder / "logs").rglob("*") if log.is_file()}
    assert len(logs) >= 6
    databases = [*(platform.folder / "hub").iterdir(), *(platform.folder / "storage").iterdir()]
    for secret in secrets:
        assert secret not in arguments
        assert [log for log, text in logs.items() if secret in text] == []
    for database in databases:
        content = database.read_bytes()
        assert keys.encode() not in content, database
        assert kit.password.encode() not in content, database


def test_every_file_belongs_to_its_owner_alone(platform: platform_process.Platform) -> None:
    for each in (platform.folder, *platform.folder.iterdir()):
        assert each.stat().st_mode & 0o077 == 0, each
    for part in ("hub", "logs", "run", "secrets", "storage"):
        for each in (platform.folder / part).rglob("*"):
            assert each.stat().st_mode & 0o077 == 0, each


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    platform = platform_process.Platform(tmp_path / "data")
    platform.start()
    assert len(platform.processes()) >= len(PARTS)
    assert platform.stop(number) == 0
    assert platform.processes() == {}
    assert "Stopped." in platform.lines


async def test_a_killed_platform_comes_up_again_with_its_servers(tmp_path: Path) -> None:
    platform = platform_process.Platform(tmp_path / "data")
    platform.start()
    try:
        async with person.Person(platform.url, "admin", platform.password) as admin:
            await admin.sign_in()
            await admin.launch()
            platform.stop(signal.SIGKILL)
            await asyncio.to_thread(_wait_for_parts_to_end, platform)
            platform.start()
            assert platform.url == admin.url
            await admin.launch()
            assert await admin.run("print(6 * 7)") == "42\n"
    finally:
        down = _habari("down", "--dir", platform.folder)
        platform.stop()
    assert (down.returncode, down.stdout) == (0, "Stopped.\n")
    assert platform.processes() == {}


async def test_it_speaks_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    declaration = tmp_path / "habari.yaml"
    declaration.write_text(
        f"listen:\n  host: 0.0.0.0\n  public_url: https://localhost:0\n"
        f"  tls:\n    certificate: {certificate}\n    key: {key}\n"
    )
    port = _free_port()
    declaration.write_text(declaration.read_text().replace("localhost:0", f"localhost:{port}"))
    platform = platform_process.Platform(tmp_path / "data", f"--config={declaration}", f"--port={port}")
    platform.start()
    try:
        assert platform.url == f"https://localhost:{port}"
        async with person.Person(platform.url, "admin", platform.password, authority=certificate) as admin:
            assert await admin.sign_in() == 200
            assert ("__Host-jupyterhub-hub-login", True) in admin.cookies()
    finally:
        assert platform.stop() == 0


def test_an_unreadable_certificate_is_named(tmp_path: Path) -> None:
    declaration = tmp_path / "habari.yaml"
    declaration.write_text("listen:\n  tls:\n    certificate: /none.pem\n    key: /none.key\n")
    result = _habari("up", "--dir", tmp_path / "data", "--config", declaration, "--port", "0")
    assert result.returncode == 2
    assert "The file /none.pem of listen.tls cannot be read: No such file or directory." in result.stderr


def _wait_for_parts_to_end(platform: platform_process.Platform) -> None:
    deadline = time.monotonic() + 30
    marks = ("weed", "traefik", "habari.service", "jupyterhub", "idle_culler")
    while any(mark in command for command in platform.processes().values() for mark in marks):
        assert time.monotonic() < deadline, platform.processes()
        time.sleep(0.05)


def _free_port() -> int:
    import socket  # noqa: PLC0415 - used here alone

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
