"""Renders grants as policy documents, whole; called by the reconciler through a backend's dialect.

Policy language: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies.html
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NotRequired, TypedDict

from habari.core import errors, model

MAX_POLICY_BYTES = 20 * 1024
"""Size limit of a bucket policy: https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html."""


class Statement(TypedDict):
    """One statement of a policy document; `Principal` is absent in a group's policy."""

    Sid: str
    Effect: str
    Principal: NotRequired[dict[str, list[str]]]
    Action: list[str]
    Resource: list[str]
    Condition: NotRequired[dict[str, dict[str, str | list[str]]]]


class Policy(TypedDict):
    """A policy document."""

    Version: str
    Statement: list[Statement]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How one kind of object store spells actions, apart for buckets and objects.

    None of these lets a user change a bucket's policy, ACL or versioning, or mint keys.
    """

    list_actions: tuple[str, ...] = ("s3:ListBucket", "s3:GetBucketLocation")
    list_write_actions: tuple[str, ...] = ("s3:ListBucketMultipartUploads",)
    read_actions: tuple[str, ...] = ("s3:GetObject", "s3:GetObjectTagging")
    write_actions: tuple[str, ...] = (
        "s3:PutObject",
        "s3:PutObjectTagging",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    )


def active(grants: Iterable[model.Grant], now: datetime.datetime) -> list[model.Grant]:
    """Return the grants that have not expired at `now` (aware)."""
    return [grant for grant in grants if grant.expires_at is None or grant.expires_at > now]


def bucket_policy(
    grants: Iterable[model.Grant],
    *,
    principals: Callable[[model.Grantee], Iterable[str]],
    dialect: Dialect,
) -> Policy | None:
    """Render the grants of one bucket to users and small groups as that bucket's whole policy.

    The result is the same for the same grants in any order. Grants to everyone are left to `group_policy`.

    Args:
        grants: All active grants of one bucket.
        principals: The store's principals for a user or group; none for a grantee who has no identity yet.
        dialect: The store's action names.

    Returns:
        The policy, or None if it would have no statement.

    Raises:
        InvalidInputError: If the document is larger than `MAX_POLICY_BYTES`.
    """
    collected: dict[_Scope, set[str]] = {}
    for grant in grants:
        if grant.grantee.kind is model.GranteeKind.EVERYONE:
            continue
        collected.setdefault(_Scope.of(grant), set()).update(principals(grant.grantee))
    statements: list[Statement] = []
    for scope in sorted(collected, key=_Scope.order):
        if named := sorted(collected[scope]):
            if "*" in named:
                msg = f"The policy of bucket {scope.bucket!r} would name the principal '*': that is anybody at all."
                raise errors.InvalidInputError(msg)
            statements += [
                {**each, "Principal": {"AWS": named}} for each in _statements(scope, dialect, len(statements))
            ]
    return _document(statements)


def group_policy(grants: Iterable[model.Grant], *, dialect: Dialect) -> Policy | None:
    """Render grants of any buckets as the policy of one group at the store, which needs no principals.

    Returns:
        The policy, or None if it would have no statement.

    Raises:
        InvalidInputError: If the document is larger than `MAX_POLICY_BYTES`.
    """
    statements: list[Statement] = []
    for scope in sorted({_Scope.of(grant) for grant in grants}, key=_Scope.order):
        statements += _statements(scope, dialect, len(statements))
    return _document(statements)


def canonical(document: Mapping[str, Any]) -> Policy:
    """Return a policy in the one form in which two that mean the same are equal.

    Stores give a list of one as a plain text, and lists in an order of their own.
    """
    statements: list[Statement] = []
    for each in _listed(document.get("Statement")):
        statement: Statement = {
            "Sid": str(each.get("Sid", "")),
            "Effect": each["Effect"],
            "Action": sorted(_listed(each["Action"])),
            "Resource": sorted(_listed(each["Resource"])),
        }
        if principal := each.get("Principal"):
            named = principal if isinstance(principal, Mapping) else {"AWS": principal}
            statement["Principal"] = {kind: sorted(_listed(who)) for kind, who in named.items()}
        if condition := each.get("Condition"):
            statement["Condition"] = {
                test: {key: sorted(_listed(value)) for key, value in keys.items()} for test, keys in condition.items()
            }
        statements.append(statement)
    return {"Version": str(document.get("Version", "")), "Statement": sorted(statements, key=json.dumps)}


def views(
    grants: Iterable[model.Grant], *, user: str, groups: Iterable[str]
) -> Mapping[str, tuple[model.Access, list[str]]]:
    """Return what a user may do: bucket name to the widest access and the prefixes that limit it.

    An empty list of prefixes is the whole bucket.

    Args:
        grants: Active grants of any buckets.
        user: The user's hub name.
        groups: The groups the user is in, `admins` included for an administrator.
    """
    mine = {
        model.Grantee(model.GranteeKind.USER, user),
        model.EVERYONE,
        *(model.Grantee(model.GranteeKind.GROUP, group) for group in groups),
    }
    held: dict[str, list[model.Grant]] = {}
    for grant in grants:
        if grant.grantee in mine:
            held.setdefault(grant.bucket, []).append(grant)
    return {bucket: _view(held[bucket]) for bucket in sorted(held)}


def _view(grants: list[model.Grant]) -> tuple[model.Access, list[str]]:
    prefixes = sorted({grant.prefix for grant in grants})
    writes = any(grant.access is model.Access.WRITE for grant in grants)
    return (model.Access.WRITE if writes else model.Access.READ, [] if "" in prefixes else prefixes)


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Grants that differ only in their grantee share a scope, and so their statements."""

    bucket: str
    prefix: str
    access: model.Access
    expires_at: datetime.datetime | None

    @classmethod
    def of(cls, grant: model.Grant) -> _Scope:
        return cls(grant.bucket, grant.prefix, grant.access, grant.expires_at)

    def order(self) -> tuple[str, str, str, str]:
        return (self.bucket, self.prefix, self.access, self.expires_at.isoformat() if self.expires_at else "")


def _statements(scope: _Scope, dialect: Dialect, count: int) -> list[Statement]:
    write = scope.access is model.Access.WRITE
    until: dict[str, dict[str, str | list[str]]] = {}
    if scope.expires_at:
        moment = scope.expires_at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        until = {"DateLessThan": {"aws:CurrentTime": moment}}
    listing: Statement = {
        "Sid": f"s{count}",
        "Effect": "Allow",
        "Action": [*dialect.list_actions, *(dialect.list_write_actions if write else ())],
        "Resource": [f"arn:aws:s3:::{scope.bucket}"],
    }
    objects: Statement = {
        "Sid": f"s{count + 1}",
        "Effect": "Allow",
        "Action": [*dialect.read_actions, *(dialect.write_actions if write else ())],
        "Resource": [f"arn:aws:s3:::{scope.bucket}/{scope.prefix}*"],
    }
    within: dict[str, dict[str, str | list[str]]] = (
        {"StringLike": {"s3:prefix": [f"{scope.prefix}*"]}} if scope.prefix else {}
    )
    if within or until:
        listing["Condition"] = within | until
    if until:
        objects["Condition"] = until
    return [listing, objects]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _document(statements: list[Statement]) -> Policy | None:
    if not statements:
        return None
    policy: Policy = {"Version": "2012-10-17", "Statement": statements}
    size = len(json.dumps(policy).encode())
    if size > MAX_POLICY_BYTES:
        msg = (
            f"The grants need a policy of {size:,} bytes; the object store takes {MAX_POLICY_BYTES:,}. "
            "Share with a group or with everyone instead of many single users."
        )
        raise errors.InvalidInputError(msg)
    return policy
