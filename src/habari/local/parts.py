"""Runs the platform's programs: starts each, waits until it answers, starts it again when it ends, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from habari.core import errors
from habari.local import child

_STOP_TIMEOUT_S = 15.0
_LOG_LIMIT_BYTES = 20 * 1024 * 1024
_FORGIVEN_AFTER_S = 600.0
"""Seconds after which a death no longer slows the next start: arbitrary."""

_RESTART_DELAYS_S = (0.2, 1.0, 5.0, 15.0, 30.0)


@dataclasses.dataclass(frozen=True)
class Part:
    """A program of the platform.

    Attributes:
        name: What people call it.
        argv: The program and its arguments; no secret may be among them.
        env: Its whole environment.
        log: File that takes its output.
        ready: Returns once the program does its work; it may be called again after a restart.
        start_timeout_s: Seconds until `ready` must have returned.
        cwd: Its working folder.
        before: Called before each start.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], Awaitable[None]]
    start_timeout_s: float = 60.0
    cwd: Path | None = None
    before: Callable[[], None] = lambda: None


@dataclasses.dataclass
class State:
    """How a part fares; `status` shows it."""

    pid: int | None = None
    ready: bool = False
    restarts: int = 0


class Supervisor:
    """Keeps a set of parts running.

    Args:
        say: Called with one line for people at each event.
        changed: Called after a state changed.
    """

    def __init__(self, say: Callable[[str], None], changed: Callable[[Mapping[str, State]], None]) -> None:
        """Keep the two callables."""
        self._say = say
        self._changed = changed
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.states: dict[str, State] = {}

    async def start(self, part: Part) -> None:
        """Start a part and return when it is ready.

        Raises:
            ConfigError: If it ends or does not answer in time; the message ends with its log's last lines.
        """
        self.states[part.name] = State()
        process = await self._spawn(part)
        ended = asyncio.create_task(process.wait(), name=f"{part.name} ended")
        ready = asyncio.create_task(_ready(part), name=f"{part.name} ready")
        try:
            await asyncio.wait({ended, ready}, timeout=part.start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                msg = f"The {part.name} ended with status {ended.result()} while starting. {_last_lines(part.log)}"
                raise errors.ConfigError(msg)
            if not ready.done():
                msg = (
                    f"The {part.name} did not answer within {part.start_timeout_s:.0f} seconds. {_last_lines(part.log)}"
                )
                raise errors.ConfigError(msg)
            if error := ready.exception():
                msg = f"The {part.name} did not start: {error}"
                raise errors.ConfigError(msg) from error
        finally:
            for task in (ended, ready):
                task.cancel()
        self._mark_ready(part)

    async def keep(self, part: Part) -> None:
        """Start the part again whenever it ends, until cancelled."""
        died_at: list[float] = []
        while True:
            status = await self._processes[part.name].wait()
            state = self.states[part.name]
            state.pid, state.ready, state.restarts = None, False, state.restarts + 1
            self._changed(self.states)
            self._say(f"The {part.name} ended ({_describe(status)}); starting it again. Log: {part.log}")
            now = asyncio.get_running_loop().time()
            died_at = [*(moment for moment in died_at if moment > now - _FORGIVEN_AFTER_S), now]
            await asyncio.sleep(_RESTART_DELAYS_S[min(len(died_at), len(_RESTART_DELAYS_S)) - 1])
            await self._start_again(part)

    async def _start_again(self, part: Part) -> None:
        process = await self._spawn(part)
        ready = asyncio.create_task(_ready(part), name=f"{part.name} ready")
        ended = asyncio.create_task(process.wait(), name=f"{part.name} ended")
        try:
            await asyncio.wait({ended, ready}, timeout=part.start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return
            if ready.done() and not ready.exception():
                self._mark_ready(part)
                self._say(f"The {part.name} runs again.")
                return
            why = ready.exception() if ready.done() else f"no answer within {part.start_timeout_s:.0f} seconds"
            self._say(f"The {part.name} does not do its work ({why}); ending it.")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def stop(self, name: str) -> None:
        """Ask a part to end, then make it; return when it is gone with all its children."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self._say(f"The {name} did not stop within {_STOP_TIMEOUT_S:.0f} seconds; ending it.")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self.states.pop(name, None)

    async def _spawn(self, part: Part) -> asyncio.subprocess.Process:
        part.before()
        with contextlib.suppress(FileNotFoundError):
            if part.log.stat().st_size > _LOG_LIMIT_BYTES:
                part.log.replace(part.log.with_suffix(".log.1"))
        with os.fdopen(os.open(part.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as log:
            process = await asyncio.create_subprocess_exec(
                *child.command(part.argv),
                env=dict(part.env),
                cwd=part.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        self._processes[part.name] = process
        self.states[part.name].pid = process.pid
        self._changed(self.states)
        return process

    def _mark_ready(self, part: Part) -> None:
        self.states[part.name].ready = True
        self._changed(self.states)


async def _ready(part: Part) -> None:
    await part.ready()


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _last_lines(log: Path, count: int = 5) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()[-count:]
    except OSError:
        lines = []
    return "\n".join([f"Its log {log} ends with:", *(f"  {line}" for line in lines)])
