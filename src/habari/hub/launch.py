"""The launch: the storage service ensures the user's bucket and keys, then the server starts, each step shown.

It is the spawner's own `start`, and not a `pre_spawn_hook`, because

- `progress` can tell of it: the hub reads `progress` from the moment the spawn is asked for, on any spawner;
- it counts into `start_timeout` and is cancelled with it, while a hook is waited for without end;
- there is one slot for a hook, and whoever sets it later would silently launch without a bucket.

Nothing here blocks the hub's loop, and no server starts unless the storage service said `ready`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from tornado import web
from traitlets import Float, Unicode

from habari.core import errors, model
from habari.hub import client, identity

SERVER_STEP = "server"
"""The step that starts when storage is ready; its end is the hub's own `ready` event."""

_STORAGE_PERCENT = 40
"""How far the bar gets while storage is made: arbitrary, the rest is the server's start."""

_EXPECTED_STEPS = 6
"""Lines that an ensure sends: identity, personal bucket and grants, each started and done."""


class LaunchError(web.HTTPError):
    """A launch that must not go on; the hub shows `jupyterhub_message` on the spawn page, as text."""

    def __init__(self, error: errors.PublicError) -> None:
        """Keep the sentence for the person and the status for the page."""
        super().__init__(error.status, str(error))
        self.jupyterhub_message = str(error)


@dataclasses.dataclass
class Journal:
    """The steps of one launch; any number of readers may come late and still see all."""

    steps: list[model.Step] = dataclasses.field(default_factory=list)
    ended: bool = False
    _changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def add(self, step: model.Step) -> None:
        """Append a step and wake the readers."""
        self.steps.append(step)
        self._wake()

    def end(self) -> None:
        """Say that no step follows."""
        self.ended = True
        self._wake()

    async def follow(self) -> AsyncIterator[tuple[int, model.Step]]:
        """Yield every step with its number, from the first on, until the journal ends."""
        number = 0
        while True:
            changed = self._changed
            while number < len(self.steps):
                yield number, self.steps[number]
                number += 1
            if self.ended:
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def describe(number: int, step: model.Step) -> dict[str, Any]:
    """Return the hub's progress event for a step."""
    percent = min(_STORAGE_PERCENT, round((number + 1) * _STORAGE_PERCENT / (_EXPECTED_STEPS + 1)))
    text = step.message or {"started": "…", "done": "done", "failed": "failed"}[step.state]
    return {"progress": percent, "message": f"{step.step}: {text}"}


class Launch(Spawner):  # type: ignore[misc]  # jupyterhub is untyped
    """A spawner that ensures its user's storage before it starts a server; put it before any other spawner class."""

    storage_url = Unicode(
        config=True, help="Address of the storage service as the hub reaches it, ending in a slash; no default."
    )
    launch_token_file = Unicode(
        config=True, help="File with the token that hub and storage service share; no default. Read at each launch."
    )
    ensure_timeout = Float(
        client.ENSURE_TIMEOUT_S, config=True, help="Seconds that the storage service may take before a launch fails."
    )

    longest_sign_in = Float(
        0.0,
        config=True,
        help="Seconds after a sign-in during which its user can be launched; by default 0, without end. "
        "For a sign-in that nobody can check again.",
    )

    journal: Journal | None = None
    _ensuring = False
    _starting: asyncio.Task[Any] | None = None
    _token_hash = ""

    async def start(self) -> Any:
        """Ensure the user's bucket and keys, then start the server.

        Raises:
            LaunchError: If they cannot be had, or the launch was ended; no server is started.
        """
        self._starting = asyncio.create_task(self._start(), name=f"launch {self._log_name}")
        try:
            return await self._starting
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is not None and this.cancelling():
                raise
            msg = f"The access of {self.user.name!r} has ended, so its server was not started."
            raise LaunchError(errors.NotPermittedError(msg)) from None
        finally:
            self._starting = None

    def end_launch(self) -> bool:
        """Make a launch that has not come to its end fail; return whether there was one."""
        return self._starting is not None and self._starting.cancel()

    async def _start(self) -> Any:
        token = orm.APIToken.find(self.user.db, self.api_token)
        self._token_hash = token.hashed if token else ""
        journal = self._open_journal()
        self._ensuring = True
        try:
            await self._ensure(journal)
            journal.add(model.Step(step=SERVER_STEP, state="started"))
        except errors.PublicError as error:
            self.log.warning("The launch of %s failed: %s", self._log_name, error)
            raise LaunchError(error) from error
        finally:
            self._ensuring = False
            journal.end()
        try:
            return await super().start()
        except errors.PublicError as error:
            raise LaunchError(error) from error

    async def _ensure(self, journal: Journal) -> None:
        state = await self.user.get_auth_state()
        issuer, subject = identity.read(state, self.user.name)
        if self.longest_sign_in and not identity.recent(state, time.time(), self.longest_sign_in):
            msg = (
                f"The last sign-in of {self.user.name!r} is more than {self.longest_sign_in / 3600:.0f} hours ago, so "
                "the server was not started. Sign in again, then launch."
            )
            raise errors.NotPermittedError(msg)
        request = model.EnsureRequest(
            issuer=issuer,
            subject=subject,
            admin=bool(self.user.admin),
            groups=sorted(group.name for group in self.user.groups),
        )
        token = await asyncio.to_thread(Path(self.launch_token_file).read_text, "utf-8")
        async for step in client.ensure(
            self.storage_url,
            token=token.strip(),
            name=self.user.name,
            request=request,
            timeout_s=self.ensure_timeout,
        ):
            self.log.info("Launch of %s: %s %s", self._log_name, step.step, step.state)
            journal.add(step)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the steps of the launch, those already past included, then whatever the other spawner class tells."""
        journal = self._open_journal() if self.journal is None else self.journal
        async for number, step in journal.follow():
            yield describe(number, step)
        if journal.steps and journal.steps[-1].step == SERVER_STEP:
            async for event in super().progress():
                yield _after_storage(event)

    async def poll(self) -> int | None:
        """Tell that the server is about to run while its storage is made: there is no process yet to ask for."""
        if self._ensuring:
            return None
        status: int | None = await super().poll()
        return status

    def get_state(self) -> dict[str, Any]:
        """Return what the next hub needs to tell the server's own token from those that its user made."""
        state: dict[str, Any] = super().get_state()
        if self._token_hash:
            state[identity.TOKEN_STATE] = self._token_hash
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a server that an earlier hub started."""
        super().load_state(state)
        self._token_hash = state.get(identity.TOKEN_STATE, "")

    def clear_state(self) -> None:
        """Forget the server."""
        super().clear_state()
        self._token_hash = ""

    async def stop(self, now: bool = False) -> None:  # noqa: FBT001, FBT002 - JupyterHub's signature
        """Stop the server."""
        self.journal = None
        await super().stop(now)

    def _open_journal(self) -> Journal:
        # A browser may ask for the progress before the hub calls start: both must find the same journal.
        if self.journal is None or self.journal.ended:
            self.journal = Journal()
        return self.journal


def launching(spawner_class: type[Spawner]) -> type[Spawner]:
    """Return that spawner class with the launch before it, configured under its own name as ever."""
    if issubclass(spawner_class, Launch):
        return spawner_class
    return type(f"Launching{spawner_class.__name__}", (Launch, spawner_class), {"__doc__": spawner_class.__doc__})


def refuse_other_spawners(spawner: Any) -> None:
    """Refuse a launch that would not ensure its user's storage; a `pre_spawn_hook` that does no I/O.

    Raises:
        LaunchError: If the configured spawner class is not a `Launch`.
    """
    if not isinstance(spawner, Launch):
        msg = (
            f"The spawner class {type(spawner).__name__} starts servers without a bucket. "
            "Set it before calling habari.hub.configure, or wrap it with habari.hub.launching."
        )
        raise LaunchError(errors.UnavailableError(msg))


def _after_storage(event: dict[str, Any]) -> dict[str, Any]:
    percent = event.get("progress")
    if percent is None:
        return event
    return {**event, "progress": round(_STORAGE_PERCENT + percent * (100 - _STORAGE_PERCENT) / 100)}
