"""Two people on one platform, one of them hostile: what every file of attacks begins with."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import channels
import person
import platform_process

from habari.local import accounts, objectstore

PROGRAM = Path(__file__).with_name("hostile.py")
"""The functions that an attacker's kernel has."""

SECRET = "the-diary-of-ada-c7e1"

_VICTIM = f"""
import boto3, os, socket, threading, time
for name in (os.path.expanduser("~/diary-of-ada.txt"), "/tmp/diary-of-ada.txt"):
    with open(name, "w") as file:
        file.write("{SECRET}")
boto3.client("s3").put_object(Bucket="user-ada", Key="diary.txt", Body=b"{SECRET}")
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0habari-diary-of-ada")
abstract.listen()

def talk():
    while True:
        print("{SECRET}", flush=True)
        time.sleep(0.05)

threading.Thread(target=talk, daemon=True).start()
"""


@dataclasses.dataclass(frozen=True)
class Scene:
    """Two people with running servers, and a kernel of the hostile one's.

    Attributes:
        platform: The platform.
        ada: The victim, whose kernel prints her secret all the time.
        bob: The attacker.
        kernel: A kernel of the attacker's, with the functions of `hostile.py`.
        hers: The environment of the victim's kernel.
        secrets: What the attacker must never see.
        ports: The platform's own ports, by what listens there.
        hers_ports: The ports on which the victim's server and kernels listen.
    """

    platform: platform_process.Platform
    ada: person.Person
    bob: person.Person
    kernel: channels.Kernel
    hers: dict[str, str]
    secrets: frozenset[str]
    ports: dict[str, int]
    hers_ports: list[int]

    async def get(self, expression: str) -> Any:
        """Return what an expression is in the attacker's kernel; no secret may be in it."""
        result = await self.kernel.ask(f"print(json.dumps({expression}))")
        text = json.dumps(result)
        assert not [secret for secret in self.secrets if secret in text], f"{expression[:200]} got {text[:2000]}"
        return result

    async def do(self, code: str) -> None:
        """Run code that prints nothing in the attacker's kernel."""
        assert await self.kernel.run(code) == ""


@contextlib.asynccontextmanager
async def opened(platform: platform_process.Platform) -> AsyncIterator[Scene]:
    """Yield ada and bob with running servers; she has a diary in her home, in her bucket and on her screen."""
    async with contextlib.AsyncExitStack() as stack:
        ada = await stack.enter_async_context(launched(platform, "ada"))
        bob = await stack.enter_async_context(launched(platform, "bob"))
        victim = await stack.enter_async_context(channels.kernel(ada))
        hers = await victim.ask("import json, os; print(json.dumps(dict(os.environ)))")
        assert SECRET in await victim.run(_VICTIM + "time.sleep(0.5)\n")
        kernel = await stack.enter_async_context(armed(bob))
        ports = json.loads((platform.folder / "run" / "ports.json").read_text())
        secrets = {SECRET, platform.password, hers["AWS_SECRET_ACCESS_KEY"], hers["JUPYTERHUB_API_TOKEN"]}
        for each in (platform.folder / "secrets").rglob("*"):
            if each.is_file() and not each.name.endswith((".crt", ".toml")):
                secrets |= {line for line in each.read_text().split("\n") if len(line) >= 32 and "-----" not in line}
        yield Scene(platform, ada, bob, kernel, hers, frozenset(secrets), ports, _listening(platform, "ada"))


@contextlib.asynccontextmanager
async def launched(platform: platform_process.Platform, name: str) -> AsyncIterator[person.Person]:
    """Yield a new person, signed in, with a running server."""
    password = accounts.add(platform.folder / accounts.FILE, name)
    async with person.Person(platform.url, name, password) as made:
        assert await made.sign_in() == 200, made.page
        await made.launch()
        yield made


@contextlib.asynccontextmanager
async def armed(attacker: person.Person) -> AsyncIterator[channels.Kernel]:
    """Yield a kernel that has the functions of `hostile.py`."""
    async with channels.kernel(attacker) as kernel:
        assert await kernel.run(PROGRAM.read_text()) == ""
        yield kernel


def landlock() -> int:
    """Return what this machine's Landlock can do: 4 knows ports, 6 abstract sockets; below 1 there is none."""
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1))


def all_ports(ports: dict[str, int]) -> list[int]:
    """Return the platform's ports with those for gRPC, whether or not anything listens there."""
    return sorted(ports.values()) + [
        port + objectstore.GRPC_OFFSET for name, port in sorted(ports.items()) if name != "port"
    ]


def _listening(platform: platform_process.Platform, name: str) -> list[int]:
    sockets: set[str] = set()
    for pid in _descendants(platform.pid):
        with contextlib.suppress(OSError):
            if f"JUPYTERHUB_USER={name}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                for each in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        sockets |= set(re.findall(r"^socket:\[(\d+)\]$", str(each.readlink())))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(each[1].rpartition(":")[2], 16) for each in lines if each[3] == "0A" and each[9] in sockets]


def _descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
