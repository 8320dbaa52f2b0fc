"""The evaluator of the in-memory store; what it has in common with real ones is in the contract suite."""

from __future__ import annotations

import datetime

import pytest

from habari.core import errors, policy
from habari.storage import memory

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)


def _statement(**changes: object) -> policy.Statement:
    statement = {"Sid": "s", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::lake/a*"]}
    return statement | changes  # type: ignore[return-value]


def _allows(statement: policy.Statement, *, prefix: str = "", resource: str = "arn:aws:s3:::lake/abc") -> bool:
    return memory.allows(statement, "s3:GetObject", resource, {"s3:prefix": prefix, "aws:CurrentTime": NOW})


def test_a_statement_allows_what_it_names_and_nothing_else() -> None:
    assert _allows(_statement())
    assert not _allows(_statement(), resource="arn:aws:s3:::lake/b")
    assert not _allows(_statement(), resource="arn:aws:s3:::other/abc")
    assert not _allows(_statement(Action=["s3:PutObject"]))
    assert not _allows(_statement(Effect="Deny"))


def test_patterns_match_whole_names_and_brackets_are_no_pattern() -> None:
    assert _allows(_statement(Action=["s3:Get*"], Resource=["arn:aws:s3:::lake/a?c"]))
    assert not _allows(_statement(Resource=["arn:aws:s3:::lake/a"]))
    assert not _allows(_statement(Resource=["arn:aws:s3:::lake/[a]bc"]))
    assert _allows(_statement(), resource="arn:aws:s3:::lake/a\nb")


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ({"StringLike": {"s3:prefix": ["p/*"]}}, True),
        ({"StringLike": {"s3:prefix": "p/*"}}, True),
        ({"StringLike": {"s3:prefix": ["q/*"]}}, False),
        ({"StringLike": {"aws:CurrentTime": ["*"]}}, False),
        ({"StringLike": {"aws:unknown": ["*"]}}, False),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-22T12:00:01Z"}}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-22T12:00:00Z"}}, False),
        ({"DateLessThan": {"s3:prefix": "2026-11-22T12:00:01Z"}}, False),
        ({"StringEquals": {"s3:prefix": ["p/x"]}}, False),
        ({"StringLike": {"s3:prefix": ["p/*"]}, "DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False),
    ],
)
def test_every_condition_must_be_met_and_an_unknown_one_is_not(condition: dict[str, object], *, met: bool) -> None:
    assert _allows(_statement(Condition=condition), prefix="p/x") == met


async def test_time_is_the_one_it_was_given() -> None:
    clock = [NOW]
    store = memory.Memory(now=lambda: clock[0])
    await store.ensure_identity("ada")
    client = store.client(await store.create_key("ada"))
    await store.ensure_bucket("lake", versions=False)
    named = {"Principal": {"AWS": [store.principal("ada")]}, "Resource": ["arn:aws:s3:::lake/*"]}
    until = {"Condition": {"DateLessThan": {"aws:CurrentTime": "2026-11-22T12:00:01Z"}}, "Action": ["s3:PutObject"]}
    await store.set_policy("lake", {"Version": "2012-10-17", "Statement": [_statement(**named, **until)]})
    client.put("lake", "x", b"1")
    clock[0] += datetime.timedelta(seconds=1)
    with pytest.raises(
        errors.NotPermittedError, match=r"lake/x' is denied: no policy allows s3:PutObject .*ask for a grant"
    ):
        client.put("lake", "x", b"2")


async def test_the_administrator_is_told_that_a_bucket_is_not_there_and_others_are_not() -> None:
    store = memory.Memory()
    with pytest.raises(errors.NotFoundError, match=r"There is no bucket 'lake'; ensure it first\."):
        store.client(store.admin_key).get("lake", "x")
    with pytest.raises(errors.NotPermittedError):
        store.client(None).get("lake", "x")
    await store.close()


async def test_a_first_write_to_nowhere_says_so() -> None:
    store = memory.Memory()
    await store.ensure_identity("ada")
    with pytest.raises(
        errors.UnavailableError, match=r"^The first write to the bucket 'lake' failed: Access to .*denied"
    ):
        await store.first_write("lake", await store.create_key("ada"))
