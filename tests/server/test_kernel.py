"""Kernels leave nothing on the loopback interface that another user's process could reach."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import zmq

INITIALIZE = {
    "type": "request",
    "seq": 1,
    "command": "initialize",
    "arguments": {"clientID": "test", "adapterID": "python", "pathFormat": "path", "supportsVariableType": True},
}


@pytest.fixture(scope="module")
def server(storage: Any, start_server: Any) -> Any:
    return start_server({"HABARI_STORAGE_URL": storage.url, "JUPYTERHUB_API_TOKEN": "token-of-ada"})


@pytest.fixture(scope="module")
def plain_server(start_server: Any) -> Any:
    return start_server({})


def tcp_listeners(home: Path, *, but: int) -> dict[int, str]:
    """Return the TCP ports on which the processes of one user listen, but for one process: command line by port.

    A process belongs to the user whose home is in its environment, also if it left its parent, as debugpy's does.
    """
    commands = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != but and f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                commands |= {entry.readlink().name: command for entry in (process / "fd").iterdir()}
        except OSError:
            continue  # it ended
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and (command := commands.get(f"socket:[{fields[9]}]")):
                ports[int(fields[1].rsplit(":", 1)[1], 16)] = command
    return ports


def listen_in(port: int) -> bytes:
    """Return what a stranger gets within a second who subscribes to everything at a port, as ZeroMQ's SUB."""
    with zmq.Context() as context, context.socket(zmq.SUB) as stranger:
        stranger.linger = 0
        stranger.subscribe(b"")
        stranger.connect(f"tcp://127.0.0.1:{port}")
        got, deadline = b"", time.monotonic() + 1
        while stranger.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            got += b"".join(stranger.recv_multipart())
        return got


async def overheard(kernel: Any, ports: Any) -> bytes:
    """Return what strangers at all those ports get while the kernel prints a word."""
    async with asyncio.TaskGroup() as group:
        strangers = [group.create_task(asyncio.to_thread(listen_in, port)) for port in ports]
        while not all(stranger.done() for stranger in strangers):
            await kernel.run("print('a sec' + 'ret')")
    return b"".join(stranger.result() for stranger in strangers)


async def test_the_attacks_work_on_a_kernel_of_a_plain_server(plain_server: Any) -> None:
    async with plain_server.kernel() as kernel:
        before = tcp_listeners(plain_server.home, but=plain_server.process.pid)
        assert b"a secret" in await overheard(kernel, before)
        reply, _ = await kernel.request("debug_request", INITIALIZE, channel="control")
        assert reply["success"]
        after = tcp_listeners(plain_server.home, but=plain_server.process.pid)
        assert any("debugpy" in command for port, command in after.items() if port not in before)


async def test_a_stranger_on_loopback_hears_nothing_of_a_kernel(server: Any) -> None:
    async with server.kernel() as kernel:
        code = "import ipykernel; print(ipykernel.get_connection_info(unpack=True)['transport'])"
        assert (await kernel.run(code)).strip() == "ipc"
        listeners = tcp_listeners(server.home, but=server.process.pid)
        # ipykernel's inlet for what forked processes print: a PULL socket, which gives nothing and takes only what
        # starts with 16 random bytes
        assert len(listeners) == 1
        assert await overheard(kernel, listeners) == b""
        with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
            stranger.linger = 1000
            stranger.connect(f"tcp://127.0.0.1:{next(iter(listeners))}")
            stranger.send_multipart([bytes(16), b"stream.stdout", b"forged"])
        assert await kernel.run(
            "import multiprocessing as m; p = m.Process(target=print, args=['forked']); p.start(); p.join()"
        )


async def test_no_debug_request_reaches_a_kernel_through_the_server(server: Any) -> None:
    async with server.kernel() as kernel:
        before = tcp_listeners(server.home, but=server.process.pid)
        await kernel.send("debug_request", INITIALIZE, channel="control")
        await kernel.run("print('the kernel goes on')")
        await kernel.request("kernel_info_request", {}, channel="control")
        assert tcp_listeners(server.home, but=server.process.pid) == before
    assert 'message of type "debug_request", which is not allowed' in server.log.read_text()


CLIENT = """
import json, sys
from jupyter_client import manager
kernel, client = manager.start_new_kernel()
for command in ("initialize", "attach", "debugInfo"):
    message = client.session.msg("debug_request", json.loads(sys.argv[1]) | {"command": command})
    client.control_channel.send(message)
    print(json.dumps(client.get_control_msg(timeout=30)["content"]), flush=True)
print("ready", flush=True)
input()
client.stop_channels()
kernel.shutdown_kernel(now=True)
"""


def test_a_debug_request_from_a_terminal_opens_no_port_and_says_why(notebook_python: Path, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "HABARI_DEBUGGER": "off", "PATH": os.environ["PATH"]}
    client = subprocess.Popen(
        [str(notebook_python), "-c", CLIENT, json.dumps(INITIALIZE)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin
    assert client.stdout
    with client:
        replies = [client.stdout.readline() for _ in range(3)]
        assert client.stdout.readline() == "ready\n"
        assert not any("debugpy" in command for command in tcp_listeners(tmp_path, but=client.pid).values())
        client.stdin.write("\n")
    for reply in map(json.loads, replies):
        assert reply["success"] is False
        assert reply["message"] == "The debugger is off on this platform: its port would be open to other users."


async def test_a_kernel_that_a_terminal_starts_is_off_loopback_too(server: Any) -> None:
    code = """
        import json, pathlib, subprocess, sys
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source":
                "import ipykernel; print(ipykernel.get_connection_info(unpack=True)['transport'])"}
        book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
        pathlib.Path("book.ipynb").write_text(json.dumps(book))
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "markdown", "--stdout", "book.ipynb"]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    """
    async with server.kernel() as kernel:
        printed = await kernel.run(textwrap.dedent(code))
    assert printed.strip().endswith("    ipc")


async def test_a_kernel_does_not_announce_the_debugger(server: Any, plain_server: Any) -> None:
    async with server.kernel() as kernel:
        info, _ = await kernel.request("kernel_info_request", {})
    async with plain_server.kernel() as kernel:
        plain, _ = await kernel.request("kernel_info_request", {})
    assert "debugger" in plain["supported_features"]
    assert "debugger" not in info["supported_features"]


async def test_the_sockets_of_kernels_lie_in_a_folder_that_others_cannot_enter(server: Any) -> None:
    async with server.kernel() as kernel:
        file = Path((await kernel.run("import ipykernel; print(ipykernel.get_connection_file())")).strip())
        sockets = [path for path in file.parent.iterdir() if path.is_socket()]
        assert len(sockets) >= 5
        assert file.parent.stat().st_mode & 0o077 == 0


async def test_a_home_with_a_long_path_has_kernels_too(storage: Any, start_server: Any, tmp_path: Path) -> None:
    home = tmp_path / ("long-" * 20)
    home.mkdir()
    variables = {"HABARI_STORAGE_URL": storage.url, "JUPYTERHUB_API_TOKEN": "token-of-ada"}
    server = start_server(variables, home=home)
    async with server.kernel() as kernel:
        assert (await kernel.run("print(6 * 7)")).strip() == "42"
        folder = Path((await kernel.run("import ipykernel; print(ipykernel.get_connection_file())")).strip()).parent
        assert folder.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(str(home / ".local/share/jupyter/runtime/kernel-00000000-0000-0000-0000-000000000000-ipc-1"))
