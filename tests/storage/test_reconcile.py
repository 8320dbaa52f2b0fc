from __future__ import annotations

import asyncio
import copy
import datetime
import logging
from collections.abc import Iterable

import pytest

from habari.core import errors, model, policy
from habari.storage import memory, reconcile

ADA = model.Grantee(model.GranteeKind.USER, "user-ada")
NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


class Table:
    """Stands for the grant table; counts how often it is read."""

    def __init__(self, *grants: model.Grant) -> None:
        self.generation = 1
        self.grants = list(grants)
        self.reads = 0

    def change(self, *grants: model.Grant) -> None:
        self.generation += 1
        self.grants = list(grants)

    async def read(self) -> reconcile.Desired:
        self.reads += 1
        await asyncio.sleep(0)
        return reconcile.Desired(self.generation, list(self.grants), _members)


def _members(grantee: model.Grantee) -> Iterable[str]:
    return [grantee.name]


class Recording(memory.Memory):
    """Counts writes, and lets a test interfere with each."""

    def __init__(self) -> None:
        super().__init__(now=lambda: NOW)
        self.writes = 0
        self.lost = 0
        self.at_once = 0
        self.most_at_once = 0
        self.interfere = lambda: None

    async def set_policy(self, bucket: str, document: policy.Policy | None) -> None:
        self.writes += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.lost:
            self.lost -= 1
        else:
            await super().set_policy(bucket, copy.deepcopy(document))
        self.interfere()


@pytest.fixture
async def store() -> Recording:
    store = Recording()
    for bucket in ("lake", "notebooks"):
        await store.ensure_bucket(bucket, versions=True)
    await store.ensure_identity("user-ada")
    return store


@pytest.fixture
def reconciler(store: Recording) -> reconcile.Reconciler:
    return reconcile.Reconciler(store, now=lambda: NOW)


def _grant(access: model.Access = model.Access.WRITE, *, bucket: str = "lake", **more: object) -> model.Grant:
    return model.Grant(bucket, ADA, access, **more)  # type: ignore[arg-type]


async def test_a_second_time_nothing_is_written(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table(_grant())
    assert await reconciler.bucket("lake", table.read) == reconcile.Outcome(1, changed=True)
    assert await reconciler.bucket("lake", table.read) == reconcile.Outcome(1, changed=False)
    assert store.writes == 1


async def test_no_grants_leave_no_policy(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table()
    assert await reconciler.bucket("lake", table.read) == reconcile.Outcome(1, changed=False)
    table.change(_grant())
    await reconciler.bucket("lake", table.read)
    table.change()
    assert await reconciler.bucket("lake", table.read) == reconcile.Outcome(3, changed=True)
    assert await store.get_policy("lake") is None


async def test_what_somebody_else_wrote_is_replaced(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table(_grant(model.Access.READ))
    await reconciler.bucket("lake", table.read)
    wanted = await store.get_policy("lake")
    assert wanted is not None
    foreign = copy.deepcopy(wanted)
    foreign["Statement"][0]["Principal"] = {"AWS": ["*"]}
    await store.set_policy("lake", foreign)
    assert (await reconciler.bucket("lake", table.read)).changed
    assert await store.get_policy("lake") == wanted


async def test_a_grant_that_is_over_is_left_out(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table(_grant(expires_at=NOW))
    await reconciler.bucket("lake", table.read)
    assert await store.get_policy("lake") is None


async def test_a_grant_that_the_store_cannot_hold_opens_nothing(
    store: Recording, reconciler: reconcile.Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    store.capabilities = reconcile.dataclasses.replace(store.capabilities, prefix_grants=False)
    table = Table(_grant(prefix="p/"))
    await reconciler.bucket("lake", table.read)
    assert await store.get_policy("lake") is None
    assert "A grant on bucket lake is left out: This object store cannot limit" in caplog.text


async def test_the_state_is_read_while_the_lock_is_held(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table(_grant(model.Access.READ))
    first = asyncio.create_task(reconciler.bucket("lake", table.read))
    await asyncio.sleep(0)
    table.change(_grant(model.Access.WRITE))
    second = asyncio.create_task(reconciler.bucket("lake", table.read))
    assert {(await first).generation, (await second).generation} == {2}
    assert store.most_at_once == 1
    document = await store.get_policy("lake")
    assert document is not None
    assert "s3:PutObject" in [action for each in document["Statement"] for action in each["Action"]]


async def test_many_at_once_take_turns_a_bucket_and_leave_no_lock(
    store: Recording, reconciler: reconcile.Reconciler
) -> None:
    tables = {bucket: Table(_grant(bucket=bucket)) for bucket in ("lake", "notebooks")}
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            bucket = ("lake", "notebooks")[number % 2]
            group.create_task(reconciler.bucket(bucket, tables[bucket].read))
    assert store.writes == 2
    assert store.most_at_once == 2
    assert reconciler._locks == {}


async def test_a_generation_that_moved_on_meanwhile_is_followed(
    store: Recording, reconciler: reconcile.Reconciler
) -> None:
    table = Table(_grant(model.Access.WRITE))

    def revoke_elsewhere() -> None:
        store.interfere = lambda: None
        table.change()

    store.interfere = revoke_elsewhere
    assert await reconciler.bucket("lake", table.read) == reconcile.Outcome(2, changed=True)
    assert await store.get_policy("lake") is None


async def test_two_processes_end_with_the_newest_state(store: Recording) -> None:
    table = Table(_grant(model.Access.WRITE))
    one, other = (reconcile.Reconciler(store, now=lambda: NOW) for _ in range(2))
    stale = asyncio.create_task(one.bucket("lake", table.read))
    for _ in range(3):
        await asyncio.sleep(0)
    table.change()
    await other.bucket("lake", table.read)
    assert (await stale).generation == 2
    assert await store.get_policy("lake") is None


async def test_a_write_that_is_lost_is_repeated(store: Recording, reconciler: reconcile.Reconciler) -> None:
    store.lost = reconcile.ROUNDS - 1
    assert (await reconciler.bucket("lake", Table(_grant()).read)).changed
    assert store.writes == reconcile.ROUNDS


async def test_a_store_that_keeps_nothing_is_reported(store: Recording, reconciler: reconcile.Reconciler) -> None:
    store.lost = 100
    with pytest.raises(errors.UnavailableError) as caught:
        await reconciler.bucket("lake", Table(_grant()).read)
    assert str(caught.value) == (
        "The object store does not keep the policy of bucket 'lake': expected that of generation 1, found another "
        "after 5 rounds. Something else writes policies there; find and stop it."
    )


async def test_an_interrupted_one_is_completed_by_the_next(store: Recording, reconciler: reconcile.Reconciler) -> None:
    table = Table(_grant())
    task = asyncio.create_task(reconciler.bucket("lake", table.read))
    for _ in range(2):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reconciler._locks == {}
    assert (await reconciler.bucket("lake", table.read)).generation == 1
    assert await store.get_policy("lake") is not None


async def test_a_bucket_that_is_not_there_is_reported(reconciler: reconcile.Reconciler) -> None:
    with pytest.raises(errors.NotFoundError, match="There is no bucket 'nowhere'; ensure it first"):
        await reconciler.bucket("nowhere", Table(_grant(bucket="nowhere")).read)


async def test_what_everyone_may_do_is_one_policy_over_all_buckets(
    store: Recording, reconciler: reconcile.Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = Table(*(model.Grant(bucket, model.EVERYONE, model.Access.READ) for bucket in ("notebooks", "lake")))
    await store.ensure_member("everyone", "user-ada")
    assert await reconciler.everyone("everyone", table.read) == reconcile.Outcome(1, changed=True)
    assert await reconciler.everyone("everyone", table.read) == reconcile.Outcome(1, changed=False)
    client = store.client(await store.create_key("user-ada"))
    assert client.list_keys("lake") == client.list_keys("notebooks") == []
    assert "Wrote the policy of group 'everyone', generation 1" in caplog.text


async def test_keys_that_nobody_knows_are_deleted(store: Recording, reconciler: reconcile.Reconciler) -> None:
    kept, rotated, minted = [await store.create_key("user-ada") for _ in range(3)]

    async def keep() -> list[str]:
        return [kept.access_key_id, "AKIAELSEWHERE"]

    assert sorted(await reconciler.keys("user-ada", keep)) == sorted([rotated.access_key_id, minted.access_key_id])
    assert await store.list_keys("user-ada") == [kept.access_key_id]
    assert await reconciler.keys("user-ada", keep) == []


async def test_a_key_made_while_keys_are_listed_stays(store: Recording, reconciler: reconcile.Reconciler) -> None:
    saved: list[str] = []

    async def keep() -> list[str]:
        saved.append((await store.create_key("user-ada")).access_key_id)
        return saved

    assert await reconciler.keys("user-ada", keep) == []
    assert await store.list_keys("user-ada") == saved
