"""Measures the platform on this machine and writes docs/benchmarks.md; run by `make bench`.

Whole seconds and MiB of one run mean little on another machine; the page says on what it was measured.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import platform as machine
import re
import shutil
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp
import person
import platform_process

from habari.core import model
from habari.local import accounts

REPEATS = 3
USERS = 20
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_MIB = 1024 * 1024


def cold_start(platform: platform_process.Platform) -> float:
    """Return the seconds from the command to a login page that answers."""
    begun = time.monotonic()
    platform.start()
    while True:
        try:
            with urllib.request.urlopen(f"{platform.url}/hub/login", timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - begun
        except OSError:
            time.sleep(0.02)


async def launch(platform: platform_process.Platform, name: str, password: str) -> tuple[float, float, float]:
    """Return the seconds from launch to a listed tree, for the first launch and for two later ones."""
    times = []
    async with person.Person(platform.url, name, password) as user:
        await user.sign_in()
        for _ in range(3):
            begun = time.monotonic()
            await user.launch()
            await user.names("buckets")
            times.append(time.monotonic() - begun)
            await user.stop_server()
    return times[0], times[1], times[2]


async def ensure(platform: platform_process.Platform) -> tuple[float, float]:
    """Return the seconds that ensuring a user's storage takes: the first time, and the median of later ones."""
    port = re.search(r'"storage": (\d+)', (platform.folder / "run" / "ports.json").read_text())[1]  # type: ignore[index]
    token = (platform.folder / "secrets" / "hub" / "launch_token").read_text().strip()
    request = model.EnsureRequest(issuer="bench", subject="bench").model_dump()
    times = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        for _ in range(10):
            begun = time.monotonic()
            url = f"http://127.0.0.1:{port}/services/storage/api/v1/users/bench-ensured/ensure"
            async with session.post(url, json=request) as answer:
                lines = (await answer.text()).strip().splitlines()
            assert model.Step.model_validate_json(lines[-1]).step == "ready", lines
            times.append(time.monotonic() - begun)
    return times[0], statistics.median(times[1:])


def memory(platform: platform_process.Platform) -> dict[str, int]:
    """Return the proportional memory of each kind of process, in bytes."""
    kinds = {
        "habari up": "habari.cli",
        "hub": "jupyterhub -f",
        "storage service": "habari.service",
        "object store": "weed",
        "proxy": "traefik",
        "idle culler": "idle_culler",
    }
    found = dict.fromkeys(kinds, 0)
    for pid, command in platform.processes().items():
        kind = next((name for name, mark in kinds.items() if mark in command), None)
        if kind:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found[kind] += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    return found


def idle_memory(platform: platform_process.Platform) -> dict[str, int]:
    """Return the memory of each kind of process once it has stopped growing."""
    before, now = {"": 0}, memory(platform)
    while abs(sum(now.values()) - sum(before.values())) > _MIB:
        time.sleep(2)
        before, now = now, memory(platform)
    return now


async def crowd(platform: platform_process.Platform) -> tuple[int, float, float]:
    """Launch 20 users at once; return how many succeeded, and the median and longest seconds to a listed tree."""
    passwords = {f"bench{n}": accounts.add(platform.folder / accounts.FILE, f"bench{n}") for n in range(USERS)}

    async def one(name: str, password: str) -> float:
        async with person.Person(platform.url, name, password) as user:
            await user.sign_in()
            begun = time.monotonic()
            await user.launch()
            await user.names("buckets")
            return time.monotonic() - begun

    results = await asyncio.gather(*(one(*each) for each in passwords.items()), return_exceptions=True)
    times = [each for each in results if isinstance(each, float)]
    for each in results:
        if not isinstance(each, float):
            print(f"failed: {each!r}"[:2000])
    return len(times), statistics.median(times), max(times)


def page(rows: list[tuple[str, str, str]]) -> str:
    """Return the page with the table."""
    model_name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`. Times are medians of three unless a row says otherwise.",
        "",
        (
            f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: {os.cpu_count()} cores"
            f" ({model_name[1] if model_name else machine.machine()}), Linux {machine.release().split('-')[0]},"
            f" Python {machine.python_version()}."
        ),
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything, print the table and write the page."""
    folder = Path(tempfile.mkdtemp(prefix="habari-bench-"))
    rows = []
    try:
        platform = platform_process.Platform(folder / "data")
        starts = []
        for n in range(REPEATS + 1):
            starts.append(cold_start(platform))
            if n < REPEATS:
                platform.stop()
        rows.append(("very first start, to a login page that answers", f"{starts[0]:.1f} s (once)", ""))
        rows.append(("cold start, to a login page that answers", f"{statistics.median(starts[1:]):.1f} s", "6 s"))
        used = idle_memory(platform)
        rows += [(f"idle memory: {name}", f"{size / _MIB:.0f} MiB", "") for name, size in used.items()]
        rows.append(("idle memory: all", f"{sum(used.values()) / _MIB:.0f} MiB", "600 MiB"))
        first, later = asyncio.run(ensure(platform))
        rows.append(("ensuring storage, first time", f"{first:.2f} s (once)", "0.3 s"))
        rows.append(("ensuring storage, later", f"{later:.3f} s", "0.03 s"))
        times = asyncio.run(launch(platform, "admin", platform.password))
        rows.append(("launch to a listed tree, first time", f"{times[0]:.1f} s (once)", "5 s"))
        rows.append(("launch to a listed tree, later", f"{statistics.median(times[1:]):.1f} s (of two)", "5 s"))
        succeeded, median, longest = asyncio.run(crowd(platform))
        rows.append(
            (
                f"{USERS} users launching at once",
                f"{succeeded} succeed; median {median:.0f} s, longest {longest:.0f} s",
                "all",
            )
        )
        platform.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = page(rows)
    print(text)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
