from __future__ import annotations

import dataclasses
import datetime

import pytest

from habari.core import errors, model
from habari.storage import base

ALL = base.Capabilities(
    prefix_grants=True,
    expiring_grants=True,
    expiring_everyone=True,
    instant_revoke=True,
    conditional_writes=True,
    versions=True,
)
ADA = model.Grantee(model.GranteeKind.USER, "ada")
END = datetime.datetime(2126, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize("grantee", [ADA, model.EVERYONE, model.ADMINS])
def test_a_store_that_can_hold_everything_takes_every_grant(grantee: model.Grantee) -> None:
    ALL.check(model.Grant("lake", grantee, model.Access.WRITE, prefix="p/", expires_at=END))


def test_a_store_that_knows_no_prefixes_says_what_to_do_instead() -> None:
    poor = dataclasses.replace(ALL, prefix_grants=False)
    poor.check(model.Grant("lake", ADA, model.Access.READ))
    with pytest.raises(errors.InvalidInputError, match=r"limit a grant to the prefix 'p/'; share the whole bucket\.$"):
        poor.check(model.Grant("lake", ADA, model.Access.READ, prefix="p/"))


@pytest.mark.parametrize(
    ("grantee", "whom"), [(ADA, "'ada'"), (model.ADMINS, "'admins'"), (model.EVERYONE, "everyone")]
)
def test_a_store_that_knows_no_time_says_what_to_do_instead(grantee: model.Grantee, whom: str) -> None:
    poor = dataclasses.replace(ALL, expiring_grants=False, expiring_everyone=False)
    with pytest.raises(
        errors.InvalidInputError, match=rf"cannot end a grant to {whom} by itself; share without an end"
    ):
        poor.check(model.Grant("lake", grantee, model.Access.READ, expires_at=END))


def test_an_end_for_everyone_is_apart_from_an_end_for_users() -> None:
    poor = dataclasses.replace(ALL, expiring_everyone=False)
    poor.check(model.Grant("lake", ADA, model.Access.READ, expires_at=END))
    with pytest.raises(errors.InvalidInputError, match="to everyone by itself"):
        poor.check(model.Grant("lake", model.EVERYONE, model.Access.READ, expires_at=END))
