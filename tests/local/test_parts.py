from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from habari.core import errors
from habari.local import parts

_WAITS = "import pathlib, signal; pathlib.Path('up').touch(); signal.pause()"


def _part(folder: Path, program: str, ready: Callable[[], bool], *, timeout_s: float = 20.0) -> parts.Part:
    async def wait() -> None:
        while not ready():
            await asyncio.sleep(0.01)

    argv = [sys.executable, "-c", program]
    return parts.Part("tester", argv, {}, folder / "log", wait, start_timeout_s=timeout_s, cwd=folder)


async def _until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_part_that_dies_is_started_again_and_said_so(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = parts.Supervisor(said.append, lambda _: None)
    part = _part(tmp_path, _WAITS, (tmp_path / "up").exists)
    await supervisor.start(part)
    first = supervisor.states["tester"].pid
    assert first
    keeping = asyncio.create_task(supervisor.keep(part))
    os.kill(first, signal.SIGKILL)
    await _until(lambda: "The tester runs again." in said)
    second = supervisor.states["tester"].pid
    assert second
    assert second != first
    assert supervisor.states["tester"].restarts == 1
    assert said[0] == f"The tester ended (killed by SIGKILL); starting it again. Log: {tmp_path}/log"
    keeping.cancel()
    await supervisor.stop("tester")
    assert not _alive(second)


async def test_a_part_that_ends_while_starting_is_explained_by_its_log(tmp_path: Path) -> None:
    supervisor = parts.Supervisor(lambda _: None, lambda _: None)
    part = _part(tmp_path, "import sys; sys.exit('no such table: users')", lambda: False)
    with pytest.raises(errors.ConfigError) as caught:
        await supervisor.start(part)
    assert str(caught.value) == (
        f"The tester ended with status 1 while starting. Its log {tmp_path}/log ends with:\n  no such table: users"
    )


async def test_a_part_that_never_answers_is_given_up(tmp_path: Path) -> None:
    supervisor = parts.Supervisor(lambda _: None, lambda _: None)
    part = _part(tmp_path, _WAITS, lambda: False, timeout_s=0.5)
    with pytest.raises(errors.ConfigError, match="The tester did not answer within 0 seconds") as caught:
        await supervisor.start(part)
    assert "ends with:" in str(caught.value)
    pid = supervisor.states["tester"].pid
    assert pid
    await supervisor.stop("tester")
    assert not _alive(pid)


async def test_a_part_that_cannot_do_its_work_is_explained(tmp_path: Path) -> None:
    async def refuse() -> None:
        msg = "The store did not take the rule."
        raise errors.UnavailableError(msg)

    supervisor = parts.Supervisor(lambda _: None, lambda _: None)
    part = parts.Part("tester", [sys.executable, "-c", _WAITS], {}, tmp_path / "log", refuse, cwd=tmp_path)
    with pytest.raises(errors.ConfigError) as caught:
        await supervisor.start(part)
    assert str(caught.value) == "The tester did not start: The store did not take the rule."
    await supervisor.stop("tester")


async def test_a_part_that_comes_back_without_doing_its_work_is_started_once_more(tmp_path: Path) -> None:
    outcomes = iter((None, errors.UnavailableError("no quorum"), None))

    async def ready() -> None:
        if outcome := next(outcomes):
            raise outcome

    said: list[str] = []
    supervisor = parts.Supervisor(said.append, lambda _: None)
    part = parts.Part("tester", [sys.executable, "-c", _WAITS], {}, tmp_path / "log", ready, cwd=tmp_path)
    await supervisor.start(part)
    pid = supervisor.states["tester"].pid
    assert pid
    keeping = asyncio.create_task(supervisor.keep(part))
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: "The tester runs again." in said)
    assert said[1] == "The tester does not do its work (no quorum); ending it."
    assert supervisor.states["tester"].restarts == 2
    keeping.cancel()
    await supervisor.stop("tester")


async def test_children_of_a_part_end_with_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', "
        "'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()'], "
        "stdout=subprocess.PIPE); child.stdout.readline(); pathlib.Path('pid').write_text(str(child.pid)); "
        "pathlib.Path('up').touch(); signal.pause()"
    )
    supervisor = parts.Supervisor(lambda _: None, lambda _: None)
    await supervisor.start(_part(tmp_path, program, (tmp_path / "up").exists))
    child = int((tmp_path / "pid").read_text())
    await supervisor.stop("tester")
    await _until(lambda: not _alive(child) or _zombie(child))


async def test_a_log_that_grew_large_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(parts._LOG_LIMIT_BYTES + 1)
    supervisor = parts.Supervisor(lambda _: None, lambda _: None)
    await supervisor.start(_part(tmp_path, _WAITS, (tmp_path / "up").exists))
    await supervisor.stop("tester")
    assert log.stat().st_size < 1000
    assert log.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log.log.1").exists()


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
