"""A stand-in for the storage service, and real servers of the notebook environment with real kernels."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_REPOSITORY = Path(__file__).parents[2]


class StorageStandIn:
    """Answers as the storage service would, with what the test says; the real one is tried end to end.

    It also answers for the hub what `jupyterhub-singleuser` asks: a greeting, and who has sent a request.

    Attributes:
        me: The document of `me`; its buckets are that of `me/buckets`.
        answers: (status, body) pairs to give first, one a request.
        requests: (path, authorization) of each request.
    """

    def __init__(self, endpoint_url: str = "http://127.0.0.1:1", bucket: str = "user-ada") -> None:
        self.me: dict[str, Any] = {
            "user": "ada",
            "bucket": bucket,
            "endpoint_url": endpoint_url,
            "region": "us-east-1",
            "keys": {"access_key_id": "AKADA", "secret_access_key": "s3cret/of+ada="},
            "buckets": [{"name": bucket, "kind": "personal", "access": "write"}],
        }
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, str]] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/storage/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, bytes]:
        if self.answers:
            return self.answers.pop(0)
        documents = {"me": self.me, "me/buckets": self.me["buckets"]}
        name = path.removeprefix("/services/storage/api/v1/")
        if path == "/hub/api":
            return 200, b'{"version": "6"}'
        if path == "/hub/api/user":
            return 200, b'{"kind": "user", "name": "ada", "scopes": ["access:servers!user=ada"]}'
        if name in documents:
            return 200, json.dumps(documents[name]).encode()
        return 404, error_body("not_found", f"No such address: {path}")

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        standin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                standin.requests.append((self.path, self.headers.get("Authorization", "")))
                status, body = standin._answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def error_body(code: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


@dataclasses.dataclass
class NotebookServer:
    """A Jupyter server in the notebook environment."""

    process: subprocess.Popen[bytes]
    url: str
    token: str
    home: Path
    log: Path
    started_s: float = 0.0

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    @contextlib.asynccontextmanager
    async def kernel(self) -> Any:
        headers = {"Authorization": f"token {self.token}"}
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            async with session.post(self.url + "api/kernels", json={"name": "python3"}) as response:
                assert response.status == 201, await response.text()
                kernel_id = (await response.json())["id"]
            async with session.ws_connect(f"{self.url}api/kernels/{kernel_id}/channels", max_msg_size=0) as socket_:
                yield Kernel(socket_)
            async with session.delete(f"{self.url}api/kernels/{kernel_id}") as response:
                assert response.status == 204, await response.text()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@dataclasses.dataclass
class Kernel:
    """A kernel behind the server's websocket."""

    socket: aiohttp.ClientWebSocketResponse

    async def send(self, kind: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send a message and return its id."""
        message_id = uuid.uuid4().hex
        header = {"msg_id": message_id, "msg_type": kind, "username": "", "session": message_id, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        await self.socket.send_json({**message, "channel": channel, "buffers": []})
        return message_id

    async def request(self, kind: str, content: dict[str, Any], channel: str = "shell") -> tuple[dict[str, Any], str]:
        """Return the content of the reply, and what was printed until the kernel was idle again."""
        message_id = await self.send(kind, content, channel)
        reply: dict[str, Any] | None = None
        printed, idle = "", False
        while reply is None or not idle:
            got = await self.socket.receive_json(timeout=120)
            if got["parent_header"].get("msg_id") != message_id:
                continue
            if got["channel"] == channel:
                reply = got["content"]
            elif got["msg_type"] == "stream":
                printed += got["content"]["text"]
            elif got["msg_type"] == "status":
                idle = got["content"]["execution_state"] == "idle"
        return reply, printed

    async def run(self, code: str) -> str:
        """Run code and return what it printed; fail with its traceback if it raised."""
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        reply, printed = await self.request("execute_request", content)
        assert reply["status"] == "ok", printed + "\n".join(reply.get("traceback", []))
        return printed


@pytest.fixture(scope="session")
def notebook_python() -> Path:
    """The Python of the users' environment, in which Habari is installed too."""
    path = Path(os.environ.get("HABARI_NOTEBOOK_PYTHON", _REPOSITORY / ".venv-notebook/bin/python"))
    if not path.exists():
        pytest.fail(f"No notebook environment at {path}: run `make setup`, or set HABARI_NOTEBOOK_PYTHON.")
    return path


@pytest.fixture(scope="module")
def start_server(
    notebook_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., NotebookServer]]:
    """Start servers with `start(variables, *command)`; all are stopped at the end of the module."""
    servers: list[NotebookServer] = []

    def start(
        variables: dict[str, str], *command: str, home: Path | None = None, wait: bool = True, timeout_s: float = 60.0
    ) -> NotebookServer:
        home = home or tmp_path_factory.mktemp("home")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        token = secrets.token_hex(8)
        log = home.parent / f"{home.name}.log"
        options = ["--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), "JUPYTER_TOKEN": token, "LANG": "C.UTF-8"}
        begun = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(notebook_python), *(command or ("-m", "jupyterlab")), *options],
                env=environ | variables,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = NotebookServer(process, f"http://127.0.0.1:{port}/", token, home, log)
        servers.append(server)
        if wait:
            _wait(server, begun + timeout_s)
            server.started_s = time.monotonic() - begun
        return server

    yield start
    for server in servers:
        server.stop()


def _wait(server: NotebookServer, deadline: float) -> None:
    while True:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        try:
            server.get("api/status")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageStandIn]:
    """A stand-in of the storage service."""
    standin = StorageStandIn()
    yield standin
    standin.close()


@pytest.fixture(scope="session")
def error() -> Callable[[str, str], bytes]:
    """Make an error body of the REST API."""
    return error_body
