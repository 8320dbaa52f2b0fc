"""Runs the whole platform on one machine until it is told to stop; called by the command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Mapping

import aiohttp

from habari.core import errors
from habari.local import objectstore, parts, plan, programs, servers

_DISK_CHECK_S = 30.0


async def run(prepared: plan.Plan, say: Callable[[str], None], announce: Callable[[], None]) -> None:
    """Run the platform until SIGINT or SIGTERM, then stop all of it.

    Args:
        prepared: What `plan.prepare` returned.
        say: Called with one line for people at each event.
        announce: Called once, when everybody can sign in.

    Raises:
        ConfigError: If a part does not start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    def changed(states: Mapping[str, parts.State]) -> None:
        listed = {name: dataclasses.asdict(state) for name, state in states.items()}
        prepared.data.write_json("status.json", {"url": prepared.url, "parts": listed})

    supervisor = parts.Supervisor(say, changed)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        listed = [
            programs.object_store(prepared),
            programs.proxy(prepared, session),
            programs.storage_service(prepared, session),
            programs.hub(prepared, session),
        ]
        main = asyncio.create_task(_serve(supervisor, prepared, listed, say, announce), name="platform")
        stop = asyncio.create_task(stopping.wait(), name="stop")
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                main.result()
            say("Stopping …")
        finally:
            main.cancel()
            stop.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.ConfigError, BaseExceptionGroup):
                await main
            for part in reversed(listed):
                await supervisor.stop(part.name)
                if part.name == "hub":
                    # Now nobody starts another one.
                    await servers.stop_all(prepared.data.path)
            changed({})


async def _serve(
    supervisor: parts.Supervisor,
    prepared: plan.Plan,
    listed: list[parts.Part],
    say: Callable[[str], None],
    announce: Callable[[], None],
) -> None:
    async def start(part: parts.Part) -> None:
        begun = asyncio.get_running_loop().time()
        await supervisor.start(part)
        say(f"  {part.name:<16} ready after {asyncio.get_running_loop().time() - begun:.1f} s")

    try:
        async with asyncio.TaskGroup() as starting:
            for part in listed:
                starting.create_task(start(part), name=f"start {part.name}")
    except* errors.ConfigError as group:
        raise group.exceptions[0] from None
    announce()
    if prepared.tenant.servers.idle_timeout_s:
        culler = programs.idle_culler(prepared)
        await supervisor.start(culler)
        listed.append(culler)
    async with asyncio.TaskGroup() as keeping:
        keeping.create_task(_guard_disk(prepared.store, say), name="guard disk")
        for part in listed:
            keeping.create_task(supervisor.keep(part), name=f"keep {part.name}")


async def _guard_disk(store: objectstore.Store, say: Callable[[str], None]) -> None:
    before: bool | None = None
    while True:
        try:
            takes_data = await store.guard_disk(takes_data=before)
        except errors.UnavailableError as error:
            say(f"The free disk could not be guarded: {error}")
        else:
            if not takes_data and before is not False:
                say(f"Free disk is short: buckets take no more data. Make room on the disk of {store.folder}")
            if takes_data and before is False:
                say("Free disk is there again: buckets take data.")
            before = takes_data
        await asyncio.sleep(_DISK_CHECK_S)
