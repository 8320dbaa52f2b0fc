"""Who is who: binds a user name to a person at the sign-in, and keeps their groups and keys, in the database.

Every function works in the transaction of the session it is given.
"""

from __future__ import annotations

import dataclasses
import datetime
import unicodedata

import sqlalchemy as sa
from sqlalchemy import orm

from habari.core import errors, model, names
from habari.service import desired, sealing, tables


@dataclasses.dataclass(frozen=True)
class User:
    """A user as the database knows them.

    Attributes:
        name: The name at the hub.
        identity: The name of their identity at the object store.
        bucket: Their personal bucket.
        groups: The groups whose grants they have, `admins` included for an administrator.
        retired: Whether their access has ended.
        joined: Whether their identity is in the store's group of everyone.
        key: The key they use, if there is one.
        key_ids: The ids of all keys that they may have; none for a retired user.
    """

    name: str
    identity: str
    bucket: str
    groups: frozenset[str]
    retired: bool
    joined: bool
    key: model.AccessKey | None
    key_ids: frozenset[str]


def is_bound(session: orm.Session, name: str, request: model.EnsureRequest) -> bool:
    """Return whether `bind` would change and refuse nothing."""
    known = _find(session, name)
    return (
        known is not None
        and (known.issuer, known.subject) == (request.issuer, request.subject)
        and known.state is tables.IdentityState.ACTIVE
        and _groups(known) == asked_groups(request)
    )


def bind(
    session: orm.Session, name: str, request: model.EnsureRequest, *, prefix: str, change: desired.Change
) -> errors.PublicError | None:
    """Bind a name to the person of the request, and record the desired state that follows.

    A new user gets an identity, a personal bucket and the grant on it; a known one new groups, where they changed.

    Returns:
        Why the person is refused, or None. It is not raised, because the refusal is audited in this transaction.
    """
    _refuse_control_characters(name, request.issuer, request.subject, *request.groups)
    known = _find(session, name)
    refusal = _refusal(session, known, name, request)
    if refusal is not None:
        desired.audit(session, change, f"refused: {refusal}", f"user {name}")
        return refusal
    before = _groups(known) if known else frozenset()
    if known is None:
        known = _make(session, name, request, prefix=prefix, now=change.at)
        desired.audit(session, change, f"made for {request.issuer}, subject {request.subject}", f"user {name}")
        desired.touch(session, [model.Grantee(model.GranteeKind.USER, name)])
    after = asked_groups(request)
    if before != after:
        _set_groups(known, after)
        desired.touch(session, [model.Grantee(model.GranteeKind.GROUP, group) for group in before ^ after])
        desired.audit(session, change, f"groups: {', '.join(sorted(after)) or 'none'}", f"user {name}")
    return None


def asked_groups(request: model.EnsureRequest) -> frozenset[str]:
    """Return the groups whose grants a person should have, `admins` included for an administrator."""
    # A hub group that happens to be called `admins` makes nobody an administrator.
    hub = set(request.groups) - {model.ADMINS.name}
    return frozenset(hub | ({model.ADMINS.name} if request.admin else set()))


def find(session: orm.Session, name: str, sealer: sealing.Sealer, prefix: str) -> User | None:
    """Return the user of that name, if they were ever bound."""
    known = _find(session, name)
    return None if known is None else _view(known, sealer, prefix)


def names_of_all(session: orm.Session) -> list[str]:
    """Return the names of all users, retired ones included, sorted."""
    return sorted(session.scalars(sa.select(tables.Identity.name)))


def keep_key(session: orm.Session, name: str, key: model.AccessKey, *, sealed: bytes, now: datetime.datetime) -> None:
    """Make a new key the one and only key of a user, whose identity may be new too, and so in no group."""
    known = session.scalars(sa.select(tables.Identity).where(tables.Identity.name == name)).one()
    for old in known.keys:
        session.delete(old)
    for membership in known.memberships:
        membership.joined = False
    session.add(
        tables.Key(
            identity_id=known.id,
            access_key_id=key.access_key_id,
            sealed_secret=sealed,
            state=tables.KeyState.ACTIVE,
            created=now,
        )
    )


def mark_joined(session: orm.Session, name: str) -> None:
    """Record that a user's identity is in the store's group of everyone."""
    owner = sa.select(tables.Identity.id).where(tables.Identity.name == name).scalar_subquery()
    session.execute(
        sa.update(tables.Membership)
        .where(tables.Membership.identity_id == owner, tables.Membership.kind == model.GranteeKind.EVERYONE)
        .values(joined=True)
    )


def any_sealed(session: orm.Session) -> bytes | None:
    """Return one sealed secret of the database, to try the encryption keys on."""
    return session.scalar(sa.select(tables.Key.sealed_secret).order_by(tables.Key.id.desc()).limit(1))


def _find(session: orm.Session, name: str) -> tables.Identity | None:
    rows = session.scalars(
        sa.select(tables.Identity)
        .where(tables.Identity.name == name)
        .options(orm.joinedload(tables.Identity.keys), orm.joinedload(tables.Identity.memberships))
    )
    return rows.unique().one_or_none()


def _view(known: tables.Identity, sealer: sealing.Sealer, prefix: str) -> User:
    key = known.key
    retired = known.state is tables.IdentityState.RETIRED
    return User(
        name=known.name,
        identity=names.identity(known.name, prefix=prefix),
        bucket=names.personal_bucket(known.name, prefix=prefix),
        groups=_groups(known),
        retired=retired,
        joined=any(each.joined for each in known.memberships if each.kind is model.GranteeKind.EVERYONE),
        key=None if key is None else model.AccessKey(key.access_key_id, sealer.open(key.sealed_secret)),
        key_ids=frozenset() if retired else frozenset(each.access_key_id for each in known.keys),
    )


def _groups(known: tables.Identity) -> frozenset[str]:
    hub = {each.name for each in known.memberships if each.kind is model.GranteeKind.GROUP}
    return frozenset(hub | ({model.ADMINS.name} if known.admin else set()))


def _set_groups(known: tables.Identity, groups: frozenset[str]) -> None:
    known.admin = model.ADMINS.name in groups
    hub = groups - {model.ADMINS.name}
    kept = [each for each in known.memberships if each.kind is not model.GranteeKind.GROUP or each.name in hub]
    new = hub - {each.name for each in kept if each.kind is model.GranteeKind.GROUP}
    known.memberships = [
        *kept,
        *(tables.Membership(kind=model.GranteeKind.GROUP, name=each, joined=False) for each in sorted(new)),
    ]


def _make(
    session: orm.Session, name: str, request: model.EnsureRequest, *, prefix: str, now: datetime.datetime
) -> tables.Identity:
    made = tables.Identity(
        name=name,
        slug=names.slug(name),
        issuer=request.issuer,
        subject=request.subject,
        admin=False,
        state=tables.IdentityState.ACTIVE,
        created=now,
        memberships=[tables.Membership(kind=model.GranteeKind.EVERYONE, name="", joined=False)],
    )
    bucket = names.personal_bucket(name, prefix=prefix)
    own = model.Grant(bucket, model.Grantee(model.GranteeKind.USER, name), model.Access.WRITE, given_by=name)
    session.add_all([made, desired.make_bucket(bucket, model.BucketKind.PERSONAL, owner=name, grants=[own], now=now)])
    session.flush()
    return made


def _refusal(
    session: orm.Session, known: tables.Identity | None, name: str, request: model.EnsureRequest
) -> errors.PublicError | None:
    if known is not None and (known.issuer, known.subject) != (request.issuer, request.subject):
        return errors.ConflictError(
            f"The user name {name!r} already belongs to another person, who signed in before; "
            "an administrator must decide whose it is."
        )
    if known is not None and known.state is tables.IdentityState.RETIRED:
        return errors.NotPermittedError(
            f"The access of the user {name!r} has been ended; an administrator can restore it."
        )
    if known is None:
        other = session.scalar(
            sa.select(tables.Identity.name).where(
                tables.Identity.issuer == request.issuer, tables.Identity.subject == request.subject
            )
        )
        if other is not None:
            return errors.ConflictError(
                f"The person who signs in as {name!r} is already known as {other!r}; "
                f"sign in as {other!r}, or ask an administrator to decide."
            )
        if session.scalar(sa.select(tables.Identity.id).where(tables.Identity.slug == names.slug(name))) is not None:
            return errors.ConflictError(
                f"The user name {name!r} would share its bucket with another user; choose another name."
            )
    return None


def _refuse_control_characters(*texts: str) -> None:
    for text in texts:
        if any(unicodedata.category(each) in {"Cc", "Cs"} for each in text):
            msg = f"The text {text!a} holds a control character; expected a name as people type it."
            raise errors.InvalidInputError(msg)
