"""Starts users' servers on one machine: each in a sandbox, or without one for a single user.

The hub makes each server's listening socket and hands it over, so that no other program can take the port
in between; it keeps the socket while the server runs, so that none can take it when the server dies either.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from jupyterhub.spawner import LocalProcessSpawner
from traitlets import Bool, Instance, Unicode

from habari.core import errors, names
from habari.hub import launch
from habari.local import homes, sandbox, secretfiles, servers

_INFO_TIMEOUT_S = 20.0
"""Seconds for bubblewrap to build a sandbox: arbitrary; it takes some milliseconds."""

_BACKLOG = 128
_LOG_LIMIT_BYTES = 1024 * 1024
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
_SHOWN_CHARACTERS = 400
_TAIL_BYTES = 64 * 1024
_CHATTER = re.compile(r"\[[DIW] \d{4}-")  # how traitlets begins a line of its log


def configure(c: Any, environ: Mapping[str, str] = os.environ) -> None:
    """Run users' servers on this machine, with `habari.hub.configure` before or after.

    Args:
        c: The configuration object of a `jupyterhub_config.py`.
        environ: HABARI_DIR, the data folder; HABARI_NOTEBOOK_ENVIRONMENT, the virtual environment that servers
            run in; HABARI_ISOLATION, `0` to run without sandboxes and for one user only; HABARI_PORTS, the platform's
            own ports with commas between them, on which no server may listen.
    """
    c.JupyterHub.spawner_class = launch.launching(LocalSpawner)
    c.LocalSpawner.data = environ["HABARI_DIR"]
    c.LocalSpawner.isolated = homes.isolated(environ)
    c.LocalSpawner.kept_ports = environ.get("HABARI_PORTS", "")
    prefix = Path(environ.get("HABARI_NOTEBOOK_ENVIRONMENT", sys.prefix))
    c.LocalSpawner.environment_read = sandbox.read_environment(prefix)
    # What the hub's own environment holds is not the users' business.
    c.Spawner.env_keep = list(_KEPT)
    # The exit of a server is seen at once; this only covers servers that an earlier hub started.
    c.Spawner.poll_interval = 5
    c.JupyterHub.cleanup_servers = False


@dataclasses.dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    server: servers.Process


class LocalSpawner(LocalProcessSpawner):  # type: ignore[misc]  # jupyterhub is untyped
    """A Jupyter server on this machine, in bubblewrap if `isolated`."""

    data = Unicode(config=True, help="The data folder; no default.")
    isolated = Bool(default_value=True, config=True, help="Run servers in sandboxes. Without, one user only is let in.")
    kept_ports = Unicode(config=True, help="Ports of the platform, with commas between them: no server listens there.")
    environment_read = Instance(sandbox.Environment, config=True, help="The environment that servers run in.")

    _running: servers.Process | None = None
    _listener: socket.socket | None = None
    _watched: int | None = None

    @property
    def key(self) -> str:
        """The server's name as a file name: the slugs of user and server never hold two dots."""
        user = names.slug(self.user.name)
        return f"{user}..{names.slug(self.name)}" if self.name else user

    @property
    def log_file(self) -> Path:
        """Where the server's output goes."""
        return Path(self.data) / "logs" / "servers" / f"{self.key}.log"

    async def start(self) -> str:
        """Start the server and return its address once it answers.

        Raises:
            UnavailableError: If it ends or cannot be started; the message holds the last line it wrote.
            NotPermittedError: Without isolation, if another user is the one who may use the platform.
        """
        data = Path(self.data)
        if not self.isolated:
            await asyncio.to_thread(homes.check_only, data, self.user.name)
        if left := servers.read(data, self.key):
            # A hub that was killed in the middle of a launch knows nothing of it; two on one home would clash.
            await servers.stop(left)
        home = await asyncio.to_thread(homes.prepare, data, names.slug(self.user.name), sandboxed=self.isolated)
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener, self.port = listener, listener.getsockname()[1]
        try:
            started = await self._run(home, listener)
            self.proc, self._running, self.pid = started.process, started.server, started.server.pid
            servers.write_down(data, self.key, started.server)
            await self._wait_answers()
        except BaseException:
            self._close_listener()
            raise
        self._watch()
        return f"http://127.0.0.1:{self.port}"

    async def _run(self, home: homes.Home, listener: socket.socket) -> _Started:
        inner = [str(self.environment_read.python), "-I", "-m", sandbox.INSIDE_MODULE, *self.get_args()]
        if not self.isolated:
            if os.geteuid() == 0:
                inner.append("--allow-root")
            env = self._environment(str(home.path), listener)
            with _output(self.log_file) as log:
                process = _popen(inner, env, log, [listener.fileno()], cwd=home.path)
            found = servers.find(process.pid, sandboxed=False)
            if found is None:
                raise self._ended()
            return _Started(process, found)
        box = self._sandbox(home)
        env = self._environment(box.home_inside, listener) | {"HABARI_PORTS": self.kept_ports}
        if box.uid is not None:
            env["HABARI_UID"] = str(box.uid)
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as answer, _output(self.log_file) as log, contextlib.ExitStack() as opened:
            fds = {"passwd": _memory(opened, sandbox.passwd(box)), "group": _memory(opened, sandbox.group(box))}
            try:
                argv = [*sandbox.command(box, system=sandbox.read_system(), fds={**fds, "info": write_end}), *inner]
                process = _popen(argv, env, log, [listener.fileno(), write_end, *fds.values()])
            finally:
                os.close(write_end)
            return _Started(process, await self._first_process(process, answer))

    def _environment(self, home: str, listener: socket.socket) -> dict[str, str]:
        env: dict[str, str] = self.get_env()
        # What users install themselves comes last, as their packages do on Python's path.
        path = f"{env['PATH']}:{home}/.local/bin"
        return {**env, "HOME": home, "PATH": path, "HABARI_LISTEN_FD": str(listener.fileno())}

    async def _first_process(self, process: subprocess.Popen[bytes], answer: Any) -> servers.Process:
        try:
            text = await asyncio.wait_for(asyncio.to_thread(answer.read), _INFO_TIMEOUT_S)
            found = servers.find(int(json.loads(text)["child-pid"]), sandboxed=True)
        except (TimeoutError, ValueError, KeyError):
            found = None
        if found is None:
            process.kill()
            process.wait()
            raise self._ended()
        return found

    def _sandbox(self, home: homes.Home) -> sandbox.Sandbox:
        return sandbox.Sandbox(
            name=self.user.name,
            home=home.path,
            home_inside=sandbox.home_inside(names.slug(self.user.name), self.environment_read),
            environment=self.environment_read,
            hidden=(Path(self.data).resolve(),),
            uid=home.uid,
        )

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """Return the server's whole environment: no variable of the platform's own processes is in it."""
        prefix = self.environment_read.python.parent
        env |= {
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "SHELL": "/bin/bash",
            "PATH": f"{prefix}:/usr/local/bin:/usr/bin:/bin",
            "VIRTUAL_ENV": str(prefix.parent),
        }
        env.setdefault("LANG", "C.UTF-8")
        if self.isolated:
            env["JUPYTER_RUNTIME_DIR"] = sandbox.RUNTIME_DIR
        return env

    async def _wait_answers(self) -> None:
        # The socket listens already, so one request waits until the server takes it: nothing to poll for.
        answering = asyncio.create_task(self._answers(), name=f"{self.key} answers")
        ended = asyncio.create_task(self._wait_ended(), name=f"{self.key} ends")
        try:
            await asyncio.wait({answering, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or answering.exception():
                raise self._ended()
        finally:
            for task in (answering, ended):
                task.cancel()
            await asyncio.gather(answering, ended, return_exceptions=True)

    async def _answers(self) -> None:
        url = f"http://127.0.0.1:{self.port}{self.server.base_url}api"
        limits = aiohttp.ClientTimeout(total=self.start_timeout)
        async with (
            aiohttp.ClientSession(timeout=limits) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            await response.read()

    async def _wait_ended(self) -> None:
        if self._running:
            await servers.wait_gone(self._running, timeout_s=self.start_timeout)

    def _ended(self) -> errors.UnavailableError:
        line = last_line(self.log_file)
        said = f" It said: {line}" if line else ""
        return errors.UnavailableError(f"Your server ended while starting.{said}")

    def _watch(self) -> None:
        """Have the hub look at once when the server ends, so that its address goes to nobody else."""
        if self._running is None:
            return
        try:
            self._watched = os.pidfd_open(self._running.pid)
        except OSError:
            return
        asyncio.get_running_loop().add_reader(self._watched, self._see_end)

    def _see_end(self) -> None:
        self._unwatch()
        if self._poll_callback is not None:
            asyncio.get_running_loop().create_task(self.poll_and_notify(), name=f"{self.key} ended")

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def poll(self) -> int | None:
        """Return None while the server runs, also after a restart of the hub, else its exit status."""
        if self._running is not None and servers.alive(self._running):
            return None
        status = 0
        if self.proc is not None:
            # The sandbox's last process follows the first; reap it, so that no zombie stays.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = await asyncio.to_thread(self.proc.wait, 1)
        self.clear_state()
        return status

    async def stop(self, now: bool = False) -> None:  # noqa: FBT001, FBT002 - JupyterHub's signature
        """End the server with all that it started."""
        if self._running is None:
            return
        self._unwatch()
        await servers.stop(self._running, timeout_s=0 if now else servers.TERM_TIMEOUT_S)
        await self.poll()

    def get_state(self) -> dict[str, Any]:
        """Return what the next hub needs to find the server again."""
        state: dict[str, Any] = super().get_state()
        if self._running is not None:
            state["process"] = dataclasses.asdict(self._running)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a server that an earlier hub started."""
        super().load_state(state)
        if "process" in state:
            self._running = servers.Process(**state["process"])
            self._watch()

    def clear_state(self) -> None:
        """Forget the server."""
        super().clear_state()
        self._unwatch()
        if self._running is not None:
            servers.strike_out(Path(self.data), self.key)
        self._running = None
        self.proc = None  # type: ignore[assignment]  # a trait that takes None
        if self._listener is not None:
            # A moment later, when the proxy has dropped the route: until then nobody else may have the port.
            listener, self._listener = self._listener, None
            asyncio.get_running_loop().call_later(2, listener.close)


def last_line(log: Path) -> str:
    """Return the last line of weight that a server wrote, for its own user: an error, or no line of a log."""
    try:
        with log.open("rb") as file:
            # The user may have written gigabytes, and the hub waits.
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not _CHATTER.match(line)]
    return (telling or lines or [""])[-1][:_SHOWN_CHARACTERS]


@contextlib.contextmanager
def _output(file: Path) -> Iterator[int]:
    secretfiles.make_folder(file.parent)
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_size > _LOG_LIMIT_BYTES:
            file.replace(file.with_suffix(".log.1"))
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _memory(opened: contextlib.ExitStack, text: str) -> int:
    handle = os.memfd_create("habari")
    opened.callback(os.close, handle)
    os.write(handle, text.encode())
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _popen(
    argv: list[str], env: Mapping[str, str], log: int, fds: list[int], *, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own arguments; the user's name is no part of the program
        argv,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=fds,
        start_new_session=True,
    )
