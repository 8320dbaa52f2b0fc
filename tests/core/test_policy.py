from __future__ import annotations

import datetime
import itertools
import json

import pytest

from habari.core import errors, model, policy

READ, WRITE = model.Access.READ, model.Access.WRITE
ADA = model.Grantee(model.GranteeKind.USER, "ada")
BOB = model.Grantee(model.GranteeKind.USER, "bob")
TEAM = model.Grantee(model.GranteeKind.GROUP, "team")
END = datetime.datetime(2026, 12, 24, 18, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
DIALECT = policy.Dialect()


def _principals(grantee: model.Grantee) -> list[str]:
    return {"ada": ["arn:ada"], "bob": ["arn:bob"], "team": ["arn:bob", "arn:carl"]}.get(grantee.name, [])


def _bucket_policy(*grants: model.Grant) -> policy.Policy | None:
    return policy.bucket_policy(grants, principals=_principals, dialect=DIALECT)


def test_a_grant_is_over_at_its_end() -> None:
    grant = model.Grant("lake", ADA, READ, expires_at=NOW)
    forever = model.Grant("lake", ADA, READ)
    assert policy.active([grant, forever], NOW - datetime.timedelta(microseconds=1)) == [grant, forever]
    assert policy.active([grant, forever], NOW) == [forever]


def test_a_read_grant_renders_listing_and_reading() -> None:
    assert _bucket_policy(model.Grant("lake", ADA, READ)) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "s0",
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:ada"]},
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": ["arn:aws:s3:::lake"],
            },
            {
                "Sid": "s1",
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:ada"]},
                "Action": ["s3:GetObject", "s3:GetObjectTagging"],
                "Resource": ["arn:aws:s3:::lake/*"],
            },
        ],
    }


def test_a_write_grant_of_a_prefix_until_a_time_renders_both_conditions() -> None:
    document = _bucket_policy(model.Grant("lake", ADA, WRITE, prefix="ada/", expires_at=END))
    assert document is not None
    listing, objects = document["Statement"]
    until = {"DateLessThan": {"aws:CurrentTime": "2026-12-24T17:00:00Z"}}
    assert listing["Action"] == [*DIALECT.list_actions, *DIALECT.list_write_actions]
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["ada/*"]}} | until
    assert objects["Action"] == [*DIALECT.read_actions, *DIALECT.write_actions]
    assert objects["Resource"] == ["arn:aws:s3:::lake/ada/*"]
    assert objects["Condition"] == until


def test_the_order_of_grants_does_not_matter() -> None:
    grants = [
        model.Grant("lake", ADA, READ),
        model.Grant("lake", BOB, READ),
        model.Grant("lake", TEAM, WRITE, prefix="t/"),
        model.Grant("lake", ADA, READ, expires_at=END),
    ]
    rendered = {json.dumps(_bucket_policy(*each)) for each in itertools.permutations(grants)}
    assert len(rendered) == 1


def test_grantees_of_the_same_access_share_statements() -> None:
    document = _bucket_policy(model.Grant("lake", BOB, READ), model.Grant("lake", TEAM, READ))
    assert document is not None
    assert [each["Principal"]["AWS"] for each in document["Statement"]] == [["arn:bob", "arn:carl"]] * 2


def test_everyone_is_left_to_the_group_and_the_unknown_to_nobody() -> None:
    stranger = model.Grantee(model.GranteeKind.USER, "stranger")
    assert _bucket_policy(model.Grant("lake", model.EVERYONE, WRITE), model.Grant("lake", stranger, READ)) is None
    assert _bucket_policy() is None


def test_the_principal_that_is_anybody_is_never_rendered() -> None:
    with pytest.raises(errors.InvalidInputError, match=r"bucket 'lake' would name the principal '\*': that is anybody"):
        policy.bucket_policy([model.Grant("lake", ADA, READ)], principals=lambda _: ["*"], dialect=DIALECT)


def test_the_group_s_policy_names_no_principal() -> None:
    document = policy.group_policy(
        [model.Grant("notebooks", model.EVERYONE, WRITE), model.Grant("lake", model.EVERYONE, READ)], dialect=DIALECT
    )
    assert document is not None
    assert [each["Resource"] for each in document["Statement"]] == [
        ["arn:aws:s3:::lake"],
        ["arn:aws:s3:::lake/*"],
        ["arn:aws:s3:::notebooks"],
        ["arn:aws:s3:::notebooks/*"],
    ]
    assert not any("Principal" in each for each in document["Statement"])
    assert len({each["Sid"] for each in document["Statement"]}) == 4
    assert policy.group_policy([], dialect=DIALECT) is None


def test_a_policy_that_no_store_takes_is_refused_before_it_is_saved() -> None:
    crowd = [f"arn:aws:iam::000000000000:user/user-{number:04}" for number in range(400)]
    with pytest.raises(
        errors.InvalidInputError, match=r"of 3\d,\d{3} bytes; the object store takes 20,480\. Share with a"
    ):
        policy.bucket_policy([model.Grant("lake", TEAM, READ)], principals=lambda _: crowd, dialect=DIALECT)


def test_no_action_lets_a_user_change_who_may_do_what() -> None:
    every = [*DIALECT.list_actions, *DIALECT.list_write_actions, *DIALECT.read_actions, *DIALECT.write_actions]
    assert not [each for each in every if "Policy" in each or "Acl" in each or "*" in each or "Versioning" in each]


def test_policies_that_mean_the_same_have_one_canonical_form() -> None:
    document = _bucket_policy(
        model.Grant("lake", TEAM, WRITE, prefix="t/", expires_at=END), model.Grant("lake", ADA, READ)
    )
    assert document is not None
    returned = json.loads(json.dumps(document))
    returned["Statement"].reverse()
    for each in returned["Statement"]:
        each["Action"].reverse()
        each["Principal"]["AWS"].reverse()
        each["Resource"] = each["Resource"][0]
        if "StringLike" in each.get("Condition", {}):
            each["Condition"]["StringLike"]["s3:prefix"] = each["Condition"]["StringLike"]["s3:prefix"][0]
    assert policy.canonical(returned) == policy.canonical(document)
    returned["Statement"][0]["Action"] = "s3:GetObject"
    assert policy.canonical(returned) != policy.canonical(document)


def test_a_foreign_policy_has_a_canonical_form_too() -> None:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/*"}
    assert policy.canonical({"Version": "2012-10-17", "Statement": statement})["Statement"] == [
        {
            "Sid": "",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": ["arn:aws:s3:::lake/*"],
            "Principal": {"AWS": ["*"]},
        }
    ]
    unnamed = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::lake/*"]}
    assert "Principal" not in policy.canonical({"Statement": [unnamed]})["Statement"][0]
    assert policy.canonical({}) == {"Version": "", "Statement": []}


def test_a_view_joins_what_reaches_a_user_by_name_by_group_and_as_everyone() -> None:
    grants = [
        model.Grant("lake", model.EVERYONE, READ),
        model.Grant("lake", ADA, WRITE, prefix="ada/"),
        model.Grant("team", TEAM, WRITE, prefix="b/"),
        model.Grant("team", ADA, READ, prefix="a/"),
        model.Grant("team", ADA, READ, prefix="a/"),
        model.Grant("bob", BOB, WRITE),
    ]
    assert policy.views(grants, user="ada", groups=["team"]) == {"lake": (WRITE, []), "team": (WRITE, ["a/", "b/"])}
    assert policy.views(grants, user="eve", groups=[]) == {"lake": (READ, [])}
    assert policy.views(grants, user="team", groups=["ada"]) == {"lake": (READ, [])}
