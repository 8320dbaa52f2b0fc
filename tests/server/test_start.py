"""Servers of the notebook environment start with their keys, and never without."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from habari.core import model
from habari.server import environment

HUB = {"JUPYTERHUB_API_TOKEN": "token-of-ada"}
SINGLEUSER = ("-m", "jupyterhub.singleuser")


def singleuser(storage: Any, port: int) -> dict[str, str]:
    """Return what a hub sets for a user's server."""
    return HUB | {
        "HABARI_STORAGE_URL": storage.url,
        "JUPYTERHUB_API_URL": storage.url.replace("/services/storage/", "/hub/api"),
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/ada/oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": "[]",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/user/ada/",
        "JUPYTERHUB_USER": "ada",
    }


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class TestStart:
    """Servers of the notebook environment."""

    def refused(self, start_server: Any, variables: dict[str, str]) -> str:
        server = start_server(variables, wait=False)
        assert server.process.wait(60) == 1
        lines: list[str] = server.log.read_text().strip().splitlines()
        assert "Traceback" not in server.log.read_text()
        assert "is running at" not in server.log.read_text()
        assert "token-of-ada" not in server.log.read_text()
        return lines[-1]

    def test_a_server_is_not_started_without_its_keys(self, storage: Any, start_server: Any, error: Any) -> None:
        storage.answers = [(409, error("conflict", "No identity for ada yet."))]
        assert self.refused(start_server, HUB | {"HABARI_STORAGE_URL": storage.url}) == (
            f"The server was not started. The storage service answered 409 at {storage.url}api/v1/me: "
            "No identity for ada yet."
        )

    def test_a_server_is_not_started_with_empty_keys(self, storage: Any, start_server: Any) -> None:
        keys = storage.me["keys"]
        storage.me["keys"] = {"access_key_id": "", "secret_access_key": ""}
        try:
            sentence = self.refused(start_server, HUB | {"HABARI_STORAGE_URL": storage.url})
        finally:
            storage.me["keys"] = keys
        assert sentence == (
            "The server was not started. The storage service's answer for the user 'ada' has no access key id and no "
            "secret access key; tell an administrator."
        )

    def test_a_server_is_not_started_without_a_token(self, storage: Any, start_server: Any) -> None:
        assert self.refused(start_server, {"HABARI_STORAGE_URL": storage.url}) == (
            "The server was not started. JUPYTERHUB_API_TOKEN is not set, which the hub sets; launch the server from "
            "the hub."
        )

    def test_a_server_is_not_started_when_its_extension_fails(self, start_server: Any, tmp_path: Path) -> None:
        (tmp_path / "aiohttp.py").write_text("raise ImportError('broken on purpose')")
        variables = HUB | {"HABARI_STORAGE_URL": "http://127.0.0.1:1/", "PYTHONPATH": str(tmp_path)}
        assert self.refused(start_server, variables) == (
            "The server was not started: its extension habari.server.extension cannot be imported (broken on "
            "purpose); mend the notebook environment, then launch again."
        )

    async def test_kernels_and_terminals_have_the_variables(self, storage: Any, start_server: Any) -> None:
        server = start_server(
            HUB | {"HABARI_STORAGE_URL": storage.url, "AWS_PROFILE": "operator", "AWS_SESSION_TOKEN": "operator"}
        )
        expected = environment.variables(environment.from_me(model.Me.model_validate(storage.me)))
        async with server.kernel() as kernel:
            printed = await kernel.run("import os; print(dict(os.environ))")
        found = eval(printed)  # noqa: S307 - a dictionary that the test itself printed
        assert {name: found.get(name) for name in expected} == expected
        assert found["HABARI_BUCKET"] == "user-ada"
        assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(found)
        await asyncio.to_thread(_open_terminal, server)
        assert expected.items() <= _environment_of_terminal(server).items()
        log = server.log.read_text()
        assert storage.me["keys"]["secret_access_key"] not in log
        assert "token-of-ada" not in log

    def test_the_single_user_server_of_a_hub_takes_it_in_before_all_else(
        self, storage: Any, start_server: Any, free_port: int
    ) -> None:
        server = start_server(singleuser(storage, free_port), *SINGLEUSER, wait=False)
        deadline = time.monotonic() + 60
        while "is running at" not in (log := server.log.read_text()):
            assert server.process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        assert log.index("Habari: user ada") < log.index("Starting jupyterhub single-user server")
        assert "Serving the home" in log
        assert "Extension Manager is 'readonly'" in log
        assert "token-of-ada" not in log

    def test_the_single_user_server_of_a_hub_is_not_started_without_keys(
        self, storage: Any, start_server: Any, error: Any, free_port: int
    ) -> None:
        storage.answers = [(403, error("not_permitted", "Ada is retired."))]
        server = start_server(singleuser(storage, free_port), *SINGLEUSER, wait=False)
        assert server.process.wait(60) == 1
        assert (
            server.log.read_text()
            .strip()
            .splitlines()[-1]
            .endswith("answered 403 at " + storage.url + "api/v1/me: Ada is retired.")
        )

    def test_the_log_holds_no_key_at_its_most_talkative(self, storage: Any, start_server: Any) -> None:
        server = start_server(HUB | {"HABARI_STORAGE_URL": storage.url}, "-m", "jupyterlab", "--log-level=DEBUG")
        assert server.get("api/contents")["type"] == "directory"
        log = server.log.read_text()
        assert "Habari: user ada" in log
        assert storage.me["keys"]["secret_access_key"] not in log
        assert "token-of-ada" not in log

    def test_a_plain_server_is_left_alone(self, start_server: Any) -> None:
        server = start_server({"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"})
        assert "Habari" not in server.log.read_text()
        assert not (server.home / ".duckdb").exists()
        assert "buckets" not in [each["name"] for each in server.get("api/contents")["content"]]


def _open_terminal(server: Any) -> None:
    headers = {"Authorization": f"token {server.token}"}
    request = urllib.request.Request(f"{server.url}api/terminals", method="POST", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def _environment_of_terminal(server: Any) -> dict[str, str]:
    pid = server.process.pid
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or [0]
    text = Path(f"/proc/{child}/environ").read_bytes().decode()
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
