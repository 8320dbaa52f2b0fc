"""Brings the common buckets of `habari.yaml` into the database, at each start of the service."""

from __future__ import annotations

import datetime

import sqlalchemy as sa
from sqlalchemy import orm

from habari.core import config, errors, model, names
from habari.service import desired, tables

_WHO = "habari.yaml"


def sync(session: orm.Session, declared: config.Buckets, *, now: datetime.datetime) -> None:
    """Make the common buckets and their grants those of the declaration.

    A bucket that is no longer declared is retired: nobody has access, its data stays, and declaring it again
    brings it back.

    Raises:
        ConfigError: If a declared bucket has the name of a bucket that a user made, or the prefix has changed.
    """
    _refuse_new_prefix(session, declared.prefix)
    rows = {
        row.name: row
        for row in session.scalars(
            sa.select(tables.Bucket).options(orm.selectinload(tables.Bucket.grants).joinedload(tables.Grant.bucket))
        )
        if row.kind is model.BucketKind.COMMON or row.kind is model.BucketKind.SHARED
    }
    wanted = {names.common_bucket(each.name, prefix=declared.prefix): each for each in declared.common}
    changed = False
    for name, each in wanted.items():
        row = rows.get(name)
        if row is not None and row.kind is not model.BucketKind.COMMON:
            msg = f"The common bucket {name!r} is declared, but a user made a bucket of that name; rename one of them."
            raise errors.ConfigError(msg)
        changed |= _put(session, row, name, each, now)
    for name, row in rows.items():
        if row.kind is model.BucketKind.COMMON and name not in wanted and row.state is tables.BucketState.ACTIVE:
            row.state = tables.BucketState.RETIRED
            row.generation += 1
            desired.audit(session, desired.Change(now, _WHO), "retired", f"bucket {name}")
            changed = True
    if changed or session.get(tables.Group, (model.GranteeKind.EVERYONE, "")) is None:
        desired.touch_everyone(session)


def _refuse_new_prefix(session: orm.Session, prefix: str) -> None:
    query = sa.select(tables.Bucket.name, tables.Bucket.owner).where(tables.Bucket.kind == model.BucketKind.PERSONAL)
    for name, owner in session.execute(query.limit(1)):
        if name != names.personal_bucket(owner or "", prefix=prefix):
            msg = (
                f"The setting buckets.prefix is {prefix!r}, but the bucket {name!r} was made with another one, "
                "and buckets cannot be renamed; put the old prefix back."
            )
            raise errors.ConfigError(msg)


def _put(
    session: orm.Session, row: tables.Bucket | None, name: str, declared: config.CommonBucket, now: datetime.datetime
) -> bool:
    """Return whether anything had to change."""
    grants = declared.grants(name)
    if row is None:
        row = desired.make_bucket(name, model.BucketKind.COMMON, owner=None, grants=grants, now=now)
        row.description = declared.description
        session.add(row)
        desired.audit(session, desired.Change(now, _WHO), "made", f"bucket {name}")
        return True
    row.description = declared.description
    # Grants that people gave on a common bucket are theirs to take back.
    ours = {grant.view(): grant for grant in row.grants if grant.given_by == _WHO}
    if set(ours) == set(grants) and row.state is tables.BucketState.ACTIVE:
        return False
    for view, grant in ours.items():
        if view not in grants:
            row.grants.remove(grant)
    session.flush()
    row.grants.extend(desired.make_grant(grant, now=now) for grant in grants if grant not in ours)
    row.state = tables.BucketState.ACTIVE
    row.generation += 1
    desired.audit(session, desired.Change(now, _WHO), "grants changed", f"bucket {name}")
    return True
