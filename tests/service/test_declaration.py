"""`habari.yaml` and the common buckets: added, changed, removed, and back again."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from habari.core import errors, model
from habari.service import tables

TWO = "buckets: {common: [{name: lake}, {name: attic, everyone: none}]}"


async def names(service: Any, user: str) -> dict[str, str]:
    return {each.name: str(each.access) for each in await service.views.buckets(user)}


async def test_added_changed_and_removed(opened: Any) -> None:
    async with opened() as service:
        store = service.store
        await service.ensure("ada")
        (await service.client("ada")).put("notebooks", "n", b"kept")
    async with opened(declared=TWO, store=store) as service:
        await service.ensure("ada")
        assert await names(service, "ada") == {"lake": "read", "user-ada": "write"}
        await service.ensure("boss", admin=True)
        assert await names(service, "boss") == {"attic": "write", "lake": "write", "user-boss": "write"}
        with pytest.raises(errors.NotPermittedError):
            (await service.client("ada")).get("notebooks", "n")
        with pytest.raises(errors.NotPermittedError):
            (await service.client("ada")).list_keys("attic")
        assert "habari.yaml: bucket notebooks: retired" in await service.audited()
    async with opened(declared="buckets: {common: [{name: notebooks}]}", store=store) as service:
        await service.ensure("ada")
        assert await names(service, "ada") == {"notebooks": "read", "user-ada": "write"}
        ada = await service.client("ada")
        assert ada.get("notebooks", "n") == b"kept"
        with pytest.raises(errors.NotPermittedError):
            ada.put("notebooks", "n", b"")
        await service.keeper.sweep()
        assert await store.get_policy("attic") is None
        assert {"habari.yaml: bucket notebooks: grants changed"} <= set(await service.audited())


async def test_the_same_declaration_changes_nothing(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        before = await service.audited()
        store = service.store
    async with opened(store=store) as service:
        await service.ensure("ada")
        assert service.faulty.calls == ["list_keys"]
        assert await service.audited() == before


async def test_another_description_changes_no_policy(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        store = service.store
    declared = "buckets: {common: [{name: lake, description: All of it}, {name: notebooks, everyone: write}]}"
    async with opened(declared=declared, store=store) as service:
        await service.ensure("ada")
        assert service.faulty.calls == ["list_keys"]
        assert (await service.views.buckets("ada"))[0].description == "All of it"


async def test_another_prefix_is_refused(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
    with pytest.raises(errors.ConfigError) as caught:
        async with opened(declared="buckets: {prefix: lab-}"):
            pass
    assert str(caught.value) == (
        "The setting buckets.prefix is 'lab-', but the bucket 'user-ada' was made with another one, "
        "and buckets cannot be renamed; put the old prefix back."
    )


async def test_a_bucket_that_a_user_made_is_not_taken_over(opened: Any) -> None:
    async with opened(declared="buckets: {common: [{name: lake}]}") as service:

        def share(session: Any) -> None:
            session.execute(sa.update(tables.Bucket).values(kind=model.BucketKind.SHARED, owner="ada"))

        await service.db.write(share)
    with pytest.raises(errors.ConfigError) as caught:
        async with opened(declared="buckets: {common: [{name: lake}]}"):
            pass
    assert str(caught.value) == (
        "The common bucket 'lake' is declared, but a user made a bucket of that name; rename one of them."
    )


async def test_grants_that_people_gave_on_a_common_bucket_stay(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        store = service.store

        def give(session: Any) -> None:
            bucket = session.query(tables.Bucket).filter_by(name="lake").one()
            bucket.grants.append(
                tables.Grant(
                    prefix="ada/",
                    grantee_kind=model.GranteeKind.USER,
                    grantee_name="ada",
                    access=model.Access.WRITE,
                    given_by="boss",
                    note="",
                    created=bucket.created,
                )
            )
            bucket.generation += 1

        await service.db.write(give)
    async with opened(declared="buckets: {common: [{name: lake, everyone: none}]}", store=store) as service:
        await service.ensure("ada")
        ada = await service.client("ada")
        ada.put("lake", "ada/x", b"")
        with pytest.raises(errors.NotPermittedError):
            ada.put("lake", "x", b"")
        assert [each.prefixes for each in await service.views.buckets("ada")] == [["ada/"], []]
