"""The sweep: what drifts at the store is repaired, and what cannot be repaired is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from habari.core import errors
from habari.service import keeper


async def test_a_policy_that_was_overwritten_or_removed_comes_back(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        written = {each: await service.store.get_policy(each) for each in ("user-ada", "lake")}
        group = await service.store.get_group_policy("everyone")
        await service.store.set_policy("user-ada", None)
        await service.store.set_policy("lake", written["user-ada"])
        await service.store.set_group_policy("everyone", None)
        await service.keeper.sweep()
        assert {each: await service.store.get_policy(each) for each in written} == written
        assert await service.store.get_group_policy("everyone") == group


async def test_stray_keys_are_deleted(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        stray = await service.store.create_key("user-ada")
        await service.keeper.sweep()
        assert await service.store.list_keys("user-ada") == [(await service.views.me("ada")).keys.access_key_id]
        with pytest.raises(errors.NotPermittedError):
            service.store.client(stray).list_keys("user-ada")


async def test_a_lost_identity_and_bucket_are_made_again(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        await service.store.delete_identity("user-ada")
        await service.store.delete_bucket("user-ada")
        await service.keeper.sweep()
        ada = await service.client("ada")
        ada.put("user-ada", "x", b"")
        assert ada.list_keys("lake") == []


async def test_a_lost_key_is_replaced_at_the_next_launch(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        lost = (await service.views.me("ada")).keys.access_key_id
        await service.store.delete_key("user-ada", lost)
        await service.ensure("ada")
        assert await service.store.list_keys("user-ada") == [(await service.views.me("ada")).keys.access_key_id]
        assert (await service.views.me("ada")).keys.access_key_id != lost


async def test_one_bucket_that_cannot_be_made_does_not_keep_the_rest_from_it(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as service:
        await service.ensure("ada")
        await service.store.set_policy("user-ada", None)
        service.faulty.fail_at, service.faulty.error = 2, errors.InvalidInputError("The policy is too large.")
        service.faulty.calls.clear()
        await service.keeper.sweep()
        assert await service.store.get_policy("user-ada")
        assert "The bucket lake cannot be made as it should be: The policy is too large." in caplog.text


async def test_one_identity_that_cannot_be_made_does_not_keep_the_rest_from_it(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as service:
        await service.ensure("ada")
        await service.ensure("bo")
        await service.store.delete_identity("user-bo")
        service.faulty.calls.clear()
        await service.keeper.sweep()
        service.faulty.fail_at = service.faulty.calls.index("list_keys") + 1
        service.faulty.error = errors.NotFoundError("There is no such identity.")
        service.faulty.calls.clear()
        await service.store.delete_identity("user-bo")
        await service.keeper.sweep()
        assert "The identity of the user ada cannot be made as it should be: There is no such identity." in caplog.text
        assert len(await service.store.list_keys("user-bo")) == 1


async def test_a_store_that_is_away_ends_the_sweep(opened: Any) -> None:
    async with opened() as service:
        service.faulty.away = True
        with pytest.raises(errors.UnavailableError, match="does not answer"):
            await service.keeper.sweep()
        assert len(service.faulty.calls) == 1


async def test_the_sweep_goes_on_when_the_store_is_back(
    opened: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as service:
        service.faulty.away = True
        task = asyncio.create_task(service.keeper.run())
        await eventually(lambda: "ended early: The object store does not answer." in caplog.text)
        service.faulty.away = False
        await eventually(lambda: "ensure_bucket" in service.faulty.calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_unknown_user_is_not_found(opened: Any) -> None:
    async with opened() as service:
        with pytest.raises(errors.NotFoundError) as caught:
            await service.keeper.apply_identity("nobody")
        assert str(caught.value) == "The user 'nobody' is not known here; launch a server first."
        with pytest.raises(errors.NotFoundError) as caught:
            await service.keeper.apply_bucket("nowhere")
        assert str(caught.value) == (
            "There is no bucket 'nowhere' on this platform; look at the list of buckets for its name."
        )


async def test_a_sweep_goes_on_where_the_last_one_ended(opened: Any) -> None:
    async with opened(declared="buckets: {common: []}") as service:
        for name in ("a", "b", "c"):
            await service.ensure(name)
        looked = []
        for _ in range(3):
            service.faulty.calls.clear()
            await service.keeper.sweep(2)
            looked.append((service.faulty.calls.count("ensure_bucket"), service.faulty.calls.count("list_keys")))
            for name in ("a", "b", "c"):
                await service.store.set_policy(f"user-{name}", None)
        assert looked == [(2, 2)] * 3
        assert not await service.store.get_policy("user-a")
        await service.keeper.sweep(1)
        await service.keeper.sweep(1)
        assert [bool(await service.store.get_policy(f"user-{name}")) for name in "abc"] == [True, True, False]


async def test_a_change_is_swept_at_once(opened: Any) -> None:
    async with opened() as service:
        await service.keeper.sweep()
        service.faulty.fail_at = len(service.faulty.calls) + 10
        assert (await service.ensure("ada", admin=True))[-1].state == "failed"
        service.keeper._last_bucket = "zzz"
        await service.keeper.sweep(1)
        assert await service.store.get_policy("lake")
        assert await service.store.get_policy("user-ada")


@pytest.mark.parametrize(
    ("last", "size", "expected"),
    [
        ("", None, ["a", "b", "c"]),
        ("", 2, ["a", "b"]),
        ("b", 2, ["c", "a"]),
        ("bb", 2, ["c", "a"]),
        ("c", 9, ["a", "b", "c"]),
        ("b", None, ["c", "a", "b"]),
    ],
)
def test_following(last: str, size: int | None, expected: list[str]) -> None:
    assert keeper.following(["a", "b", "c"], last, size) == expected
    assert keeper.following([], last, size) == []


def test_the_intervals_are_what_the_documents_promise() -> None:
    assert (keeper.SWEEP_INTERVAL_S, keeper.SWEEP_SIZE) == (60.0, 25)
