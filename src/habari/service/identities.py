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
        key: The key they use, if there is one whose secret can be read.
        key_ids: The ids of all keys that they may have; none for a retired user.
        lost: The secret of their key was sealed with an encryption key that is gone.
    """

    name: str
    identity: str
    bucket: str
    groups: frozenset[str]
    retired: bool
    joined: bool
    key: model.AccessKey | None
    key_ids: frozenset[str]
    lost: bool


def is_bound(session: orm.Session, name: str, person: model.Person, groups: frozenset[str] | None) -> bool:
    """Return whether `bind` would change and refuse nothing."""
    known = _find(session, name)
    if known is None or not _is(known, person):
        return False
    return groups is None or (known.state is tables.IdentityState.ACTIVE and _groups(known) == groups)


def bind(  # noqa: PLR0913 - one argument each for who, what and by whom
    session: orm.Session,
    name: str,
    person: model.Person,
    groups: frozenset[str] | None,
    *,
    prefix: str,
    change: desired.Change,
) -> errors.PublicError | None:
    """Bind a name to a person, and record the desired state that follows.

    A new user gets an identity, a personal bucket and the grant on it; a known one new groups, where they changed.

    Args:
        session: The transaction.
        name: The name at the hub.
        person: Who signed in.
        groups: The groups whose grants the person has from now on, who is active again if their access had ended.
            None binds the name alone.
        prefix: The tenant's bucket prefix.
        change: Who asks, for the audit trail.

    Returns:
        Why the person is refused, or None. It is not raised, because the refusal is audited in this transaction.
    """
    _refuse_control_characters(name, person.issuer, person.subject, *(groups or ()))
    known = _find(session, name)
    refusal = _refusal(session, known, name, person)
    if refusal is not None:
        desired.audit(session, change, f"refused: {refusal}", f"user {name}")
        return refusal
    before = _groups(known) if known else frozenset()
    if known is None:
        known = _make(session, name, person, prefix=prefix, now=change.at)
        desired.audit(session, change, f"made for {person.issuer}, subject {person.subject}", f"user {name}")
        desired.touch(session, [model.Grantee(model.GranteeKind.USER, name)])
    if groups is None:
        return None
    if known.state is tables.IdentityState.RETIRED:
        _set_state(session, known, tables.IdentityState.ACTIVE)
        desired.audit(session, change, "restored", f"user {name}")
    if before != groups:
        _set_groups(known, groups)
        desired.touch(session, [model.Grantee(model.GranteeKind.GROUP, group) for group in before ^ groups])
        desired.audit(session, change, f"groups: {', '.join(sorted(groups)) or 'none'}", f"user {name}")
    return None


def retire(session: orm.Session, name: str, person: model.Person, *, change: desired.Change) -> bool:
    """Record that a person's access has ended, and return whether the name is theirs; else nothing changes."""
    known = _find(session, name)
    if known is None or not _is(known, person):
        return False
    if known.state is not tables.IdentityState.RETIRED:
        _set_state(session, known, tables.IdentityState.RETIRED)
        desired.audit(session, change, "retired", f"user {name}")
    return True


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
    key, lost = None, False
    if known.key is not None:
        try:
            key = model.AccessKey(known.key.access_key_id, sealer.open(known.key.sealed_secret))
        except errors.ConfigError:
            lost = True
    retired = known.state is tables.IdentityState.RETIRED
    return User(
        name=known.name,
        identity=names.identity(known.name, prefix=prefix),
        bucket=names.personal_bucket(known.name, prefix=prefix),
        groups=_groups(known),
        retired=retired,
        joined=any(each.joined for each in known.memberships if each.kind is model.GranteeKind.EVERYONE),
        key=key,
        key_ids=frozenset() if retired or lost else frozenset(each.access_key_id for each in known.keys),
        lost=lost,
    )


def _is(known: tables.Identity, person: model.Person) -> bool:
    return (known.issuer, known.subject) == (person.issuer, person.subject)


def _groups(known: tables.Identity) -> frozenset[str]:
    hub = {each.name for each in known.memberships if each.kind is model.GranteeKind.GROUP}
    return frozenset(hub | ({model.ADMINS.name} if known.admin else set()))


def _set_state(session: orm.Session, known: tables.Identity, state: tables.IdentityState) -> None:
    # Policies name those alone who are active.
    known.state = state
    groups = [model.Grantee(model.GranteeKind.GROUP, group) for group in _groups(known)]
    desired.touch(session, [model.Grantee(model.GranteeKind.USER, known.name), *groups])


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
    session: orm.Session, name: str, person: model.Person, *, prefix: str, now: datetime.datetime
) -> tables.Identity:
    made = tables.Identity(
        name=name,
        slug=names.slug(name),
        issuer=person.issuer,
        subject=person.subject,
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
    session: orm.Session, known: tables.Identity | None, name: str, person: model.Person
) -> errors.PublicError | None:
    if known is not None and not _is(known, person):
        return errors.ConflictError(
            f"The user name {name!r} already belongs to another person, who signed in before; "
            "an administrator must decide whose it is."
        )
    if known is None:
        other = session.scalar(
            sa.select(tables.Identity.name).where(
                tables.Identity.issuer == person.issuer, tables.Identity.subject == person.subject
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
