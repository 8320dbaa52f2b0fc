"""What the object store should look like: buckets, grants and who they reach, in the database.

Every function works in the transaction of the session it is given. What changes a bucket's policy counts
its generation up in the same transaction, so that the change is never lost.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import orm

from habari.core import errors, model, names
from habari.service import tables
from habari.storage import reconcile


@dataclasses.dataclass(frozen=True)
class Change:
    """When something changes, by whom, and from which address."""

    at: datetime.datetime
    who: str
    origin: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a bucket, or the group of everyone, should be at the store.

    Attributes:
        policy: Its grants, and whom they reach now; no grants for a retired bucket.
        applied_generation: The last generation that the store was seen to have.
        versions: Whether a bucket keeps deleted and overwritten objects.
    """

    policy: reconcile.Desired
    applied_generation: int
    versions: bool = False

    @property
    def pending(self) -> bool:
        """Whether the store may differ from this."""
        return self.applied_generation != self.policy.generation


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to do for one user.

    Attributes:
        made: Whether the store ever had the personal bucket.
        pending: Whether the store may not have it as it should be now.
        proven: Whether the user's key has written to it.
        others: Names of the other buckets, theirs or any group's, that the store may not have as they should be.
        everyone: Whether the store may not have the group of everyone as it should be.
    """

    made: bool
    pending: bool
    proven: bool
    others: list[str]
    everyone: bool


def audit(session: orm.Session, change: Change, what: str, target: str) -> None:
    """Add a line to the audit trail."""
    session.add(tables.Audit(at=change.at, who=change.who, what=what, object=target, origin=change.origin))


def make_bucket(
    name: str,
    kind: model.BucketKind,
    *,
    owner: str | None,
    grants: Iterable[model.Grant],
    now: datetime.datetime,
) -> tables.Bucket:
    """Return a new bucket's row with its grants; a personal bucket keeps no versions."""
    return tables.Bucket(
        name=name,
        kind=kind,
        owner=owner,
        description="",
        versions=kind is not model.BucketKind.PERSONAL,
        state=tables.BucketState.ACTIVE,
        generation=1,
        applied_generation=0,
        proven=None,
        created=now,
        grants=[make_grant(grant, now=now) for grant in grants],
    )


def make_grant(grant: model.Grant, *, now: datetime.datetime) -> tables.Grant:
    """Return a grant's row; its bucket is the one whose `grants` it is added to."""
    return tables.Grant(
        prefix=grant.prefix,
        grantee_kind=grant.grantee.kind,
        grantee_name=grant.grantee.name,
        access=grant.access,
        expires_at=grant.expires_at,
        given_by=grant.given_by,
        note="",
        created=now,
    )


def touch(session: orm.Session, grantees: Iterable[model.Grantee]) -> None:
    """Count up every bucket with a grant to one of these users or groups, because whom it reaches has changed."""
    for grantee in grantees:
        reached = sa.select(tables.Grant.bucket_id).where(
            tables.Grant.grantee_kind == grantee.kind, tables.Grant.grantee_name == grantee.name
        )
        session.execute(
            sa.update(tables.Bucket)
            .where(tables.Bucket.id.in_(reached))
            .values(generation=tables.Bucket.generation + 1)
            .execution_options(synchronize_session=False)
        )


def touch_everyone(session: orm.Session) -> None:
    """Count up the group of everyone, because a grant to it has changed."""
    key = (model.GranteeKind.EVERYONE, "")
    group = session.get(tables.Group, key)
    if group is None:
        session.add(tables.Group(kind=key[0], name=key[1], generation=1, applied_generation=0))
    else:
        group.generation = tables.Group.generation + 1


def bucket(session: orm.Session, name: str, prefix: str) -> Target:
    """Return what a bucket should be.

    Raises:
        NotFoundError: If there is none of that name.
    """
    rows = session.scalars(
        sa.select(tables.Bucket)
        .where(tables.Bucket.name == name)
        .options(orm.joinedload(tables.Bucket.grants).joinedload(tables.Grant.bucket))
    )
    row = rows.unique().one_or_none()
    if row is None:
        msg = f"There is no bucket {name!r} on this platform; look at the list of buckets for its name."
        raise errors.NotFoundError(msg)
    grants = [each.view() for each in row.grants] if row.state is tables.BucketState.ACTIVE else []
    members = {grantee: _members(session, grantee, prefix) for grantee in {grant.grantee for grant in grants}}
    policy = reconcile.Desired(row.generation, grants, lambda grantee: members[grantee])
    return Target(policy, row.applied_generation, versions=row.versions)


def everyone(session: orm.Session) -> Target:
    """Return what the group of everyone may do, on any bucket."""
    row = session.get(tables.Group, (model.GranteeKind.EVERYONE, ""))
    rows = session.scalars(
        sa.select(tables.Grant)
        .join(tables.Grant.bucket)
        .where(
            tables.Grant.grantee_kind == model.GranteeKind.EVERYONE,
            tables.Bucket.state == tables.BucketState.ACTIVE,
        )
        .options(orm.contains_eager(tables.Grant.bucket))
        .order_by(tables.Grant.id)
    )
    grants = [each.view() for each in rows]
    return Target(reconcile.Desired(row.generation if row else 0, grants), row.applied_generation if row else 0)


def names_of_all(session: orm.Session) -> list[str]:
    """Return the names of all buckets, retired ones included, sorted."""
    return sorted(session.scalars(sa.select(tables.Bucket.name)))


def pending_names(session: orm.Session) -> list[str]:
    """Return the names of the buckets that the store does not have as they should be, sorted."""
    pending = tables.Bucket.generation != tables.Bucket.applied_generation
    return sorted(session.scalars(sa.select(tables.Bucket.name).where(pending)))


def work_for(session: orm.Session, user: str, groups: Iterable[str], personal: str) -> Work:
    """Return what the store does not have yet of what a user should have.

    Args:
        session: The transaction.
        user: The user's name at the hub.
        groups: The groups whose grants they have.
        personal: The name of their personal bucket.
    """
    pending = tables.Bucket.generation != tables.Bucket.applied_generation
    made = tables.Bucket.applied_generation > 0
    own = session.execute(
        sa.select(made, pending, tables.Bucket.proven.is_not(None)).where(tables.Bucket.name == personal)
    ).one()
    others = session.scalars(
        sa.select(tables.Bucket.name)
        .join(tables.Bucket.grants)
        .where(
            pending,
            tables.Bucket.name != personal,
            tables.Bucket.state == tables.BucketState.ACTIVE,
            # Whoever has left a group no longer reaches its buckets, and must be shut out of them at once.
            sa.or_(tables.Grant.grantee_kind == model.GranteeKind.GROUP, _reaches(user, groups)),
        )
        .distinct()
    )
    everyone = session.scalar(
        sa.select(tables.Group.generation != tables.Group.applied_generation).where(
            tables.Group.kind == model.GranteeKind.EVERYONE
        )
    )
    return Work(made=own[0], pending=own[1], proven=own[2], others=sorted(others), everyone=bool(everyone))


def visible_to(session: orm.Session, user: str, groups: Iterable[str]) -> list[tuple[model.BucketView, model.Grant]]:
    """Return each grant that reaches a user, with its bucket as that grant alone would show it.

    Buckets that the store never had are left out.
    """
    rows = session.scalars(
        sa.select(tables.Grant)
        .join(tables.Grant.bucket)
        .where(
            tables.Bucket.state == tables.BucketState.ACTIVE,
            tables.Bucket.applied_generation > 0,
            _reaches(user, groups),
        )
        .options(orm.contains_eager(tables.Grant.bucket))
    )
    return [
        (
            model.BucketView(
                name=row.bucket.name, kind=row.bucket.kind, access=row.access, description=row.bucket.description
            ),
            row.view(),
        )
        for row in rows
    ]


def mark_applied(session: orm.Session, name: str, generation: int) -> None:
    """Record that the store was seen to have a generation of a bucket."""
    session.execute(
        sa.update(tables.Bucket)
        .where(tables.Bucket.name == name, tables.Bucket.applied_generation < generation)
        .values(applied_generation=generation)
    )


def mark_everyone_applied(session: orm.Session, generation: int) -> None:
    """Record that the store was seen to have a generation of the group of everyone."""
    session.execute(
        sa.update(tables.Group)
        .where(tables.Group.kind == model.GranteeKind.EVERYONE, tables.Group.applied_generation < generation)
        .values(applied_generation=generation)
    )


def mark_proven(session: orm.Session, name: str, now: datetime.datetime) -> None:
    """Record that a user's key wrote to a bucket."""
    session.execute(sa.update(tables.Bucket).where(tables.Bucket.name == name).values(proven=now))


def _reaches(user: str, groups: Iterable[str]) -> sa.ColumnElement[bool]:
    kind, name = tables.Grant.grantee_kind, tables.Grant.grantee_name
    return sa.or_(
        kind == model.GranteeKind.EVERYONE,
        sa.and_(kind == model.GranteeKind.USER, name == user),
        sa.and_(kind == model.GranteeKind.GROUP, name.in_(list(groups))),
    )


def _members(session: orm.Session, grantee: model.Grantee, prefix: str) -> list[str]:
    query = sa.select(tables.Identity.name).where(tables.Identity.state == tables.IdentityState.ACTIVE)
    if grantee.kind is model.GranteeKind.EVERYONE:
        return []
    if grantee.kind is model.GranteeKind.USER:
        query = query.where(tables.Identity.name == grantee.name)
    elif grantee == model.ADMINS:
        query = query.where(tables.Identity.admin)
    else:
        query = query.join(tables.Identity.memberships).where(
            tables.Membership.kind == grantee.kind, tables.Membership.name == grantee.name
        )
    return [names.identity(each, prefix=prefix) for each in session.scalars(query.order_by(tables.Identity.name))]
