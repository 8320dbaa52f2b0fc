"""The users' servers as processes: which run, ask one to end, end it.

A server outlives the hub, so that a restart of the hub disturbs nobody. Who starts a server writes down
its process, and `stop_all` ends all that are written down: at the end of the platform, or before the next
start of one whose hub was killed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path

from habari.local import secretfiles

FOLDER = "run/servers"
"""Where running servers are written down, in the data folder: one file a server."""

TERM_TIMEOUT_S = 10.0
"""Seconds for a server to end its kernels before it is killed: arbitrary; it takes below one."""

_POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that cannot be taken for a later one with the same id.

    Attributes:
        pid: Its id; of a sandbox, that of its first process, with which all of it ends.
        started: Its start in clock ticks since the machine's.
        sandboxed: Whether its only child is the server.
    """

    pid: int
    started: int
    sandboxed: bool = True


def find(pid: int, *, sandboxed: bool) -> Process | None:
    """Return the process that has this id now, or None."""
    fields = _stat(pid)
    return Process(pid, int(fields[19]), sandboxed) if fields else None


def alive(process: Process) -> bool:
    """Tell whether a process is still there, and no zombie."""
    fields = _stat(process.pid)
    return fields is not None and int(fields[19]) == process.started and fields[0] not in "ZX"


def ask_to_end(process: Process) -> None:
    """Send SIGTERM to the server, which ends its kernels first."""
    for pid in _children(process.pid) if process.sandboxed else [process.pid]:
        _signal(pid, signal.SIGTERM)


def end(process: Process) -> None:
    """Kill a server with all that it started."""
    if not alive(process):
        return
    if process.sandboxed:
        _signal(process.pid, signal.SIGKILL)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def stop(process: Process, *, timeout_s: float = TERM_TIMEOUT_S) -> None:
    """Ask a server to end, kill it if it does not within the time, and return when it is gone."""
    if alive(process):
        ask_to_end(process)
        await wait_gone(process, timeout_s=timeout_s)
        end(process)
        await wait_gone(process, timeout_s=TERM_TIMEOUT_S)


async def wait_gone(process: Process, *, timeout_s: float) -> bool:
    """Return whether a process is gone, at the latest after the time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while alive(process):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def write_down(data: Path, key: str, process: Process) -> None:
    """Remember a running server under a key that is a file name."""
    folder = data / FOLDER
    secretfiles.make_folder(folder)
    secretfiles.write(folder / key, json.dumps(dataclasses.asdict(process)).encode())


def read(data: Path, key: str) -> Process | None:
    """Return the server that was written down under a key, running or not."""
    try:
        return Process(**json.loads((data / FOLDER / key).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def strike_out(data: Path, key: str) -> None:
    """Forget a server."""
    (data / FOLDER / key).unlink(missing_ok=True)


async def stop_all(data: Path) -> None:
    """End every server that was written down and return when all are gone."""
    folder = data / FOLDER
    if not folder.is_dir():
        return
    keys = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            if process := read(data, key):
                tasks.create_task(stop(process), name=f"stop server {key}")
    for key in keys:
        strike_out(data, key)


def _stat(pid: int) -> list[str] | None:
    # The second field is the program's name, which may hold anything: https://man7.org/linux/man-pages/man5/proc.5.html
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _children(parent: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[1]) == parent]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
