"""Ensuring a user: what they get, who is refused, and that no interruption leaves a mess."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest
from cryptography import fernet

from habari.core import errors, model
from habari.service import desired, ensure, identities, sealing, tables
from habari.storage import memory

STEPS = [
    ("identity", "started"),
    ("identity", "done"),
    ("personal bucket", "started"),
    ("personal bucket", "done"),
    ("grants", "started"),
    ("grants", "done"),
    ("ready", "done"),
]


def told(steps: list[model.Step]) -> list[tuple[str, str]]:
    return [(step.step, step.state) for step in steps]


async def test_a_new_user_gets_keys_a_bucket_and_the_common_ones(opened: Any) -> None:
    async with opened() as service:
        assert told(await service.ensure("ada")) == STEPS
        me = await service.views.me("ada")
        assert me.bucket == "user-ada"
        assert [(each.name, each.kind, each.access) for each in me.buckets] == [
            ("lake", "common", "read"),
            ("notebooks", "common", "write"),
            ("user-ada", "personal", "write"),
        ]
        assert me.buckets[0].description == "Data for everyone, kept by the administrators"
        ada = await service.client("ada")
        ada.put("user-ada", "x", b"1")
        ada.put("notebooks", "n", b"2")
        assert ada.list_keys("lake") == []
        with pytest.raises(errors.NotPermittedError):
            ada.put("lake", "x", b"1")


async def test_no_other_user_and_no_visitor_gets_into_a_personal_bucket(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        await service.ensure("bo")
        for client in (await service.client("bo"), service.store.client(None)):
            for attempt in (lambda c: c.list_keys("user-ada"), lambda c: c.put("user-ada", "x", b"")):
                with pytest.raises(errors.NotPermittedError):
                    attempt(client)


async def test_the_second_time_asks_the_store_for_the_keys_only(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        key = (await service.views.me("ada")).keys
        service.faulty.calls.clear()
        assert told(await service.ensure("ada")) == STEPS
        assert service.faulty.calls == ["list_keys"]
        assert (await service.views.me("ada")).keys == key
        assert service.faulty.calls.count("first_write") == 0


async def test_interrupted_at_any_call_and_repeated(opened: Any) -> None:
    """After each call to the store, in the first launch of an administrator: the repetition completes it.

    What is left before a call is what is left after the one before.
    """
    async with opened(folder="-count") as service:
        await service.ensure("ada", admin=True)
        calls = list(service.faulty.calls)
    assert {"create_key", "ensure_member", "ensure_bucket", "set_policy", "set_group_policy", "first_write"} <= {*calls}
    for number, call in enumerate(calls, 1):
        async with opened(folder=f"-{number}") as service:
            service.faulty.fail_at, service.faulty.after = number, True
            steps = await service.ensure("ada", admin=True)
            assert steps[-1].state == "failed", call
            assert steps[-1].message == "The object store does not answer."
            assert len(await service.store.list_keys("user-ada")) <= 2
            assert told(await service.ensure("ada", admin=True)) == STEPS
            assert await service.store.list_keys("user-ada") == [(await service.views.me("ada")).keys.access_key_id]
            ada = await service.client("ada")
            for bucket in ("user-ada", "lake", "notebooks"):
                ada.put(bucket, "x", b"")


async def test_stopped_at_any_call_and_repeated_by_the_next_process(opened: Any) -> None:
    async with opened(folder="-count") as service:
        await service.ensure("ada")
        count = len(service.faulty.calls)
    for number in range(1, count + 1):
        store = memory.Memory()
        async with opened(folder=f"-{number}", store=store) as service:
            service.faulty.fail_at, service.faulty.stop = number, service.ensurer.cancel
            steps = await service.ensure("ada")
            assert steps[-1].message == "The storage service is stopping; try again in a moment."
        async with opened(folder=f"-{number}", store=store) as service:
            assert told(await service.ensure("ada")) == STEPS
            assert len(await store.list_keys("user-ada")) == 1


async def test_at_once_is_one_run(opened: Any) -> None:
    async with opened() as service:
        runs = await asyncio.gather(*(service.ensure("ada") for _ in range(10)))
        assert [told(run) for run in runs] == [STEPS] * 10
        assert service.faulty.calls.count("create_key") == 1
        assert service.faulty.calls.count("first_write") == 1


async def test_at_once_with_different_groups_is_one_after_the_other(opened: Any) -> None:
    async with opened() as service:
        runs = await asyncio.gather(*(service.ensure("ada", admin=admin) for admin in (False, True, False, True)))
        assert [told(run)[-1] for run in runs] == [("ready", "done")] * 4
        assert service.faulty.calls.count("create_key") == 1


async def test_twenty_users_at_once(opened: Any) -> None:
    async with opened() as service:
        users = [f"user{number}" for number in range(20)]
        runs = await asyncio.gather(*(service.ensure(user, admin=user == "user7") for user in users))
        assert [told(run) for run in runs] == [STEPS] * 20
        (await service.client("user7")).put("lake", "x", b"")
        for user in users:
            assert (await service.client(user)).get("lake", "x") == b""


async def test_a_caller_who_goes_away_stops_nothing(opened: Any, eventually: Any) -> None:
    async with opened() as service:
        service.faulty.hold = asyncio.Event()
        request = model.EnsureRequest(issuer="local", subject="ada")
        steps = await service.ensurer.begin("ada", request, origin="")
        assert (await anext(steps)).state == "started"
        await steps.aclose()
        service.faulty.hold.set()
        await eventually(lambda: "first_write" in service.faulty.calls and not service.ensurer._runs)
        service.faulty.calls.clear()
        assert told(await service.ensure("ada")) == STEPS
        assert service.faulty.calls == ["list_keys"]


async def test_a_store_that_hangs_ends_in_a_sentence(opened: Any) -> None:
    async with opened(timeout_s=0.05) as service:
        service.faulty.hold = asyncio.Event()
        last = (await service.ensure("ada"))[-1]
        assert (last.step, last.state) == ("identity", "failed")
        assert last.message == "The object store took more than 0 seconds; try again in a moment."
    assert ensure.TIMEOUT_S < 60, "the hub must hear the reason before it gives up"


async def test_what_nobody_foresaw_is_an_incident(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as service:
        service.faulty.fail_at, service.faulty.error = 2, RuntimeError("private detail")
        last = (await service.ensure("ada"))[-1]
    assert last.state == "failed"
    sentence, _, number = last.message.rpartition(" ")
    assert sentence == "The storage service failed in a way nobody foresaw; tell your administrator the incident"
    logged = next(record for record in caplog.records if number.rstrip(".") in record.message)
    assert "ensuring the user ada at identity" in logged.message
    assert "private detail" in str(logged.exc_info)


async def test_a_known_name_with_another_subject_is_refused_and_audited(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada", subject="1")
        key = (await service.views.me("ada")).keys
        for other in ({"subject": "2"}, {"subject": "1", "issuer": "https://github.com"}):
            with pytest.raises(errors.ConflictError) as caught:
                await service.ensure("ada", **other)
            assert str(caught.value) == (
                "The user name 'ada' already belongs to another person, who signed in before; "
                "an administrator must decide whose it is."
            )
        assert (await service.views.me("ada")).keys == key
        assert (await service.audited())[-1].startswith("hub: user ada: refused: The user name 'ada' already belongs")


async def test_a_known_person_with_another_name_is_refused(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada", subject="1")
        with pytest.raises(errors.ConflictError) as caught:
            await service.ensure("lovelace", subject="1")
        assert str(caught.value) == (
            "The person who signs in as 'lovelace' is already known as 'ada'; "
            "sign in as 'ada', or ask an administrator to decide."
        )
        assert await service.store.list_keys("user-lovelace") == []
        assert len([line for line in await service.audited() if "refused" in line]) == 1


async def test_who_is_retired_loses_the_keys_and_keeps_the_data_until_the_next_launch(opened: Any) -> None:
    person = model.Person(issuer="local", subject="ada")
    async with opened() as service:
        await service.ensure("ada")
        (await service.client("ada")).put("user-ada", "mine", b"data")
        key = (await service.views.me("ada")).keys
        await service.ensurer.retire("ada", model.Person(issuer="local", subject="another"), origin="")
        await service.ensurer.retire("nobody", person, origin="")
        assert await service.store.list_keys("user-ada") == [key.access_key_id], "another person ends nobody's access"

        for _ in range(2):
            await service.ensurer.retire("ada", person, origin="")
            assert await service.store.list_keys("user-ada") == []
            with pytest.raises(errors.NotPermittedError) as caught:
                await service.views.me("ada")
            assert str(caught.value) == "The access of the user 'ada' has been ended; an administrator can restore it."
        stolen = service.store.client(model.AccessKey(key.access_key_id, key.secret_access_key))
        with pytest.raises(errors.NotPermittedError):
            stolen.list_keys("lake")
        await service.ensurer.check("ada", person, origin="")
        await service.keeper.sweep()
        assert await service.store.list_keys("user-ada") == [], "a sign-in and a sweep restore nothing"

        assert told(await service.ensure("ada"))[-1] == ("ready", "done")
        assert (await service.client("ada")).list_keys("user-ada") == ["mine"]
        assert [line for line in await service.audited() if "retired" in line or "restored" in line] == [
            "hub: user ada: retired",
            "hub: user ada: restored",
        ]


async def test_who_is_retired_while_the_store_is_away_loses_the_keys_in_the_next_sweep(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        service.faulty.away = True
        with pytest.raises(errors.UnavailableError, match="The object store does not answer"):
            await service.ensurer.retire("ada", model.Person(issuer="local", subject="ada"), origin="")
        with pytest.raises(errors.NotPermittedError):
            await service.views.me("ada")
        service.faulty.away = False
        await service.keeper.sweep()
        assert await service.store.list_keys("user-ada") == []


async def test_a_sign_in_leaves_groups_as_they_are(opened: Any, sealer: sealing.Sealer) -> None:
    person = model.Person(issuer="local", subject="ada")
    async with opened() as service:
        await service.ensure("ada", admin=True, groups=["team"])
        await service.ensurer.check("ada", person, origin="")
        user = await service.db.read(identities.find, "ada", sealer, "")
        assert user.groups == {"admins", "team"}
        await service.ensure("ada")
        user = await service.db.read(identities.find, "ada", sealer, "")
        assert user.groups == frozenset()


async def test_a_key_whose_encryption_key_is_gone_is_replaced_at_the_next_launch(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    other = sealing.Sealer([fernet.Fernet.generate_key().decode()])
    async with opened() as service:
        await service.ensure("ada")
        await service.ensure("bob")
        old = (await service.views.me("ada")).keys
        await service.db.write(
            lambda session: [
                setattr(each, "sealed_secret", other.seal("x"))
                for each in session.query(tables.Key).filter_by(access_key_id=old.access_key_id)
            ]
        )
        for _ in range(3):
            await service.keeper.sweep()
        told_once = [each.getMessage() for each in caplog.records if "encryption" in each.getMessage()]
        assert len(told_once) == 1
        assert told_once[0] == (
            "The key of the user ada was sealed with an encryption key that is not in the secret encryption_keys; "
            "the user gets a new key at the next launch."
        )
        assert await service.store.list_keys("user-ada") == [old.access_key_id], "a running server goes on"
        with pytest.raises(errors.ConflictError, match="stop the server and launch it again"):
            await service.views.me("ada")

        assert told(await service.ensure("ada"))[-1] == ("ready", "done")
        new = (await service.views.me("ada")).keys.access_key_id
        assert await service.store.list_keys("user-ada") == [new] != [old.access_key_id]


async def test_names_never_meet_in_one_bucket(opened: Any) -> None:
    users = ["a.b", "a_b", "ä", "A.B", "a-b", "Ada", "ada", "lake", "everyone", "admins", "admin", "user-ada", "root"]
    async with opened() as service:
        for user in users:
            assert told(await service.ensure(user))[-1] == ("ready", "done")
        seen = [await service.views.me(user) for user in users]
        assert len({me.bucket for me in seen}) == len(users)
        assert len({me.keys.access_key_id for me in seen}) == len(users)
        assert not {me.bucket for me in seen} & {"lake", "notebooks"}
        for user, me in zip(users, seen, strict=True):
            (await service.client(user)).put(me.bucket, "mine", user.encode())
        assert [(await service.client(user)).list_keys(me.bucket) for user, me in zip(users, seen, strict=True)] == [
            ["mine"]
        ] * len(users)
        with pytest.raises(errors.NotPermittedError):
            (await service.client("admins")).put("lake", "x", b"")


async def test_a_slug_that_is_taken_is_refused(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("habari.core.names.slug", lambda _: "same")
    async with opened() as service:
        await service.ensure("ada")
        with pytest.raises(errors.ConflictError) as caught:
            await service.ensure("bo")
        assert str(caught.value) == "The user name 'bo' would share its bucket with another user; choose another name."


@pytest.mark.parametrize("person", [{"subject": "a\x00b"}, {"issuer": "a\nb"}, {"groups": ["g\x7f"]}])
async def test_control_characters_are_refused(opened: Any, person: dict[str, Any]) -> None:
    async with opened() as service:
        with pytest.raises(errors.InvalidInputError, match=r"holds a control character; expected a name as people"):
            await service.ensure("ada", **person)


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_names_of_a_wrong_length_are_refused(opened: Any, name: str) -> None:
    async with opened() as service:
        with pytest.raises(errors.InvalidInputError, match="expected 1 to 255"):
            await service.ensure(name, subject="1")


async def test_administrators_come_and_go(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada", admin=True)
        ada = await service.client("ada")
        ada.put("lake", "x", b"1")
        assert {each.name: each.access for each in (await service.views.me("ada")).buckets}["lake"] == "write"
        await service.ensure("ada", admin=False)
        with pytest.raises(errors.NotPermittedError):
            ada.put("lake", "x", b"2")
        assert {each.name: each.access for each in (await service.views.me("ada")).buckets}["lake"] == "read"
        assert "hub: user ada: groups: none" in await service.audited()


async def test_a_hub_group_called_admins_makes_no_administrator(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada", groups=["admins", "staff"])
        with pytest.raises(errors.NotPermittedError):
            (await service.client("ada")).put("lake", "x", b"")
        assert await service.ensure("ada", groups=["staff", "admins"])


async def test_hub_groups_follow_the_hub(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada", groups=["staff", "ops"])
        await service.ensure("ada", groups=["ops", "data"])
        assert (await service.keeper.apply_identity("ada")).groups == {"ops", "data"}


async def test_a_grant_to_a_hub_group_reaches_its_members(opened: Any) -> None:
    async with opened(declared="buckets: {common: [{name: lake, everyone: none}]}") as service:

        def give(session: Any) -> None:
            bucket = session.query(tables.Bucket).filter_by(name="lake").one()
            grant = model.Grant("lake", model.Grantee(model.GranteeKind.GROUP, "staff"), model.Access.READ)
            bucket.grants.append(desired.make_grant(grant, now=bucket.created))
            bucket.generation += 1

        await service.db.write(give)
        await service.ensure("ada", groups=["staff"])
        await service.ensure("bo")
        assert [each.name for each in (await service.views.me("ada")).buckets] == ["lake", "user-ada"]
        assert (await service.client("ada")).list_keys("lake") == []
        assert [each.name for each in (await service.views.me("bo")).buckets] == ["user-bo"]
        with pytest.raises(errors.NotPermittedError):
            (await service.client("bo")).list_keys("lake")
        await service.ensure("ada")
        with pytest.raises(errors.NotPermittedError):
            (await service.client("ada")).list_keys("lake")


async def test_a_user_who_was_not_ensured_to_the_end_gets_a_sentence_and_no_key(opened: Any) -> None:
    async with opened() as service:
        service.faulty.away = True
        assert (await service.ensure("ada"))[-1].state == "failed"
        with pytest.raises(errors.ConflictError) as caught:
            await service.views.me("ada")
        assert str(caught.value) == (
            "The storage of the user 'ada' has not been made yet; stop the server and launch it again."
        )


async def test_a_user_without_a_key_proves_nothing(opened: Any) -> None:
    async with opened() as service:
        await service.ensure("ada")
        user = dataclasses.replace(await service.keeper.apply_identity("ada"), key=None)
        with pytest.raises(errors.UnavailableError) as caught:
            await service.keeper.prove(user)
        assert str(caught.value) == "The user 'ada' has no key for the bucket 'user-ada'; launch again."


async def test_with_a_prefix_every_name_at_the_store_has_it(opened: Any) -> None:
    async with opened(declared="buckets: {prefix: lab-}") as service:
        await service.ensure("ada")
        assert [each.name for each in (await service.views.me("ada")).buckets] == [
            "lab-lake",
            "lab-notebooks",
            "lab-user-ada",
        ]
        assert await service.store.get_group_policy("lab-everyone")
        assert len(await service.store.list_keys("lab-user-ada")) == 1


async def test_a_database_that_is_away_is_a_sentence(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as service:

        async def away(*_: Any, **__: Any) -> None:
            message = "The storage service cannot use its database now"
            raise errors.UnavailableError(message)

        await service.ensure("ada")
        monkeypatch.setattr(service.db, "read", away)
        with pytest.raises(errors.UnavailableError, match="cannot use its database"):
            await service.ensure("ada")


async def test_no_key_in_log_or_step(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened() as service:
        steps = await service.ensure("ada")
        stray = await service.store.create_key("user-ada")
        steps += await service.ensure("ada")
        keys = (await service.views.me("ada")).keys
        text = caplog.text + repr(steps) + repr(await service.views.me("ada")) + repr(await service.audited())
        for secret in (keys.secret_access_key, stray.secret_access_key):
            assert secret not in text
        assert "The user ada has 1 keys that the database does not know." in caplog.text
