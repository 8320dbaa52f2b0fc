"""Ensures a user: records what they should have, and returns once the object store has it.

The work runs in a task of its own, not in the request's, so a caller who goes away stops nothing, and
callers who ask the same at once follow one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Iterator

from habari.core import errors as core_errors
from habari.core import model, names
from habari.service import database, desired, errors, identities, keeper

TIMEOUT_S = 50.0
"""Longest time for ensuring one user, in seconds: arbitrary, less than the 60 after which the hub gives up itself."""

_LOG = logging.getLogger(__name__)


class Ensurer:
    """Ensures users, each at most once at a time.

    Args:
        db: The database.
        keep: What makes the object store agree.
        prefix: The tenant's bucket prefix.
        tasks: Owns the running tasks.
        timeout_s: Longest time for one user, in seconds.
    """

    def __init__(
        self,
        db: database.Database,
        keep: keeper.Keeper,
        *,
        prefix: str,
        tasks: asyncio.TaskGroup,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Keep the parts."""
        self._db = db
        self._keeper = keep
        self._prefix = prefix
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._runs: dict[tuple[str, str], _Run] = {}

    async def begin(self, name: str, request: model.EnsureRequest, *, origin: str) -> AsyncIterator[model.Step]:
        """Record what the user should have, and return the steps by which the object store gets it.

        The last step has the state `failed` and a sentence for the user, if something cannot be had.

        Args:
            name: The user's name at the hub.
            request: The person, and the groups they are in.
            origin: The caller's address, for the audit trail.

        Raises:
            ConflictError: If the name belongs to another person, or the person has another name here.
            UnavailableError: If the database does not answer.
        """
        await self._bind(name, request, identities.asked_groups(request), origin=origin)
        key = (name, request.model_dump_json())
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = _Run()
            run.task = self._tasks.create_task(
                self._run(name, identities.asked_groups(request), run), name=f"ensure {name}"
            )
            run.task.add_done_callback(lambda _: self._runs.pop(key))
        return run.follow()

    def cancel(self) -> None:
        """Stop every run; whoever follows one reads why."""
        for run in self._runs.values():
            if run.task:
                run.task.cancel()

    async def check(self, name: str, person: model.Person, *, origin: str) -> None:
        """Bind a name to a person in the database only, whose groups stay as they are; raises as `begin` does."""
        await self._bind(name, person, None, origin=origin)

    async def retire(self, name: str, person: model.Person, *, origin: str) -> None:
        """End a person's access: their keys are deleted, their bucket stays; the next `begin` brings it back.

        A name that is not this person's, or nobody's, is left alone.

        Raises:
            UnavailableError: If the store or the database does not answer. Once the database knows, `Keeper.sweep`
                deletes the keys.
        """
        change = desired.Change(datetime.datetime.now(datetime.UTC), "hub", origin)
        if not await self._db.write(identities.retire, name, person, change=change):
            return
        async with self._keeper.user_lock(name):
            with contextlib.suppress(core_errors.NotPermittedError):  # says that the user is retired
                await self._keeper.apply_identity(name)

    async def _bind(self, name: str, person: model.Person, groups: frozenset[str] | None, *, origin: str) -> None:
        if await self._db.read(identities.is_bound, name, person, groups):
            return
        change = desired.Change(datetime.datetime.now(datetime.UTC), "hub", origin)
        refusal = await self._db.write(identities.bind, name, person, groups, prefix=self._prefix, change=change)
        if refusal is not None:
            raise refusal

    async def _run(self, name: str, groups: frozenset[str], run: _Run) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), self._keeper.user_lock(name):
                await self._steps(name, groups, run)
        except core_errors.PublicError as error:
            _LOG.warning("Ensuring the user %s failed at %s: %s", name, run.step, error)
            run.fail(str(error))
        except TimeoutError:
            _LOG.warning("Ensuring the user %s took more than %.0f seconds at %s.", name, self._timeout_s, run.step)
            run.fail(f"The object store took more than {self._timeout_s:.0f} seconds; try again in a moment.")
        except asyncio.CancelledError:
            run.fail("The storage service is stopping; try again in a moment.")
            raise
        except Exception as error:  # noqa: BLE001 - the top of a task: the caller must hear of any end
            run.fail(errors.incident(error, f"ensuring the user {name} at {run.step}"))

    async def _steps(self, name: str, groups: frozenset[str], run: _Run) -> None:
        run.start("identity")
        bucket = names.personal_bucket(name, prefix=self._prefix)
        work = await self._db.read(desired.work_for, name, groups, bucket)
        with _first_of_group():
            async with asyncio.TaskGroup() as tasks:
                # Making a bucket and making an identity take the store 0.2 s and 0.1 s, and neither needs the other.
                if not work.made:
                    tasks.create_task(self._keeper.make_bucket(bucket), name=f"make the bucket {bucket}")
                user = await self._keeper.apply_identity(name)
                run.done()
                run.start("personal bucket")
        if work.pending:
            await self._keeper.apply_bucket(bucket, made=not work.made)
        if not work.proven:
            await self._keeper.prove(user)
        run.done()
        run.start("grants")
        if work.everyone:
            await self._keeper.apply_everyone()
        for other in work.others:
            await self._keeper.apply_bucket(other)
        run.done()
        run.start("ready", announce=False)
        run.done()
        _LOG.info("Ensured the user %s.", name)


@contextlib.contextmanager
def _first_of_group() -> Iterator[None]:
    """Raise the first error of a group of tasks as itself."""
    try:
        yield
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


class _Run:
    """The steps of one run so far, and those who follow it."""

    def __init__(self) -> None:
        self.step = ""
        self.task: asyncio.Task[None] | None = None
        self._steps: list[model.Step] = []
        self._ended = False
        self._changed = asyncio.Event()

    def start(self, step: str, *, announce: bool = True) -> None:
        self.step = step
        if announce:
            self._publish(model.Step(step=step, state="started"))

    def done(self) -> None:
        self._publish(model.Step(step=self.step, state="done"), last=self.step == "ready")

    def fail(self, message: str) -> None:
        self._publish(model.Step(step=self.step or "identity", state="failed", message=message), last=True)

    async def follow(self) -> AsyncIterator[model.Step]:
        told = 0
        while True:
            for step in self._steps[told:]:
                told += 1
                yield step
            if self._ended and told == len(self._steps):
                return
            if told == len(self._steps):
                await self._changed.wait()

    def _publish(self, step: model.Step, *, last: bool = False) -> None:
        self._steps.append(step)
        self._ended = last
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
