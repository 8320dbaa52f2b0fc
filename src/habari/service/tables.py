"""The database's tables: the desired state of identities, buckets and grants, and what the store has of it.

`generation` counts changes of what a bucket or group should be, `applied_generation` the last one that
was read back from the object store. Where they differ, the reconciler has work.
"""

from __future__ import annotations

import datetime
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from habari.core import model


class UtcDateTime(sa.types.TypeDecorator[datetime.datetime]):
    """An aware time, kept as UTC; a time without zone is refused."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: sa.Dialect) -> datetime.datetime | None:
        """Return the time as UTC without its zone, which SQLite cannot keep."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"The time {value} has no zone; expected an aware time."
            raise ValueError(msg)
        return value.astimezone(datetime.UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime.datetime | None:
        """Return the time with its zone."""
        del dialect
        return None if value is None else value.replace(tzinfo=datetime.UTC)


class IdentityState(enum.StrEnum):
    """Whether a person may use their identity."""

    ACTIVE = "active"
    RETIRED = "retired"


class KeyState(enum.StrEnum):
    """Whether a key is the one handed out, or an older one in its grace period."""

    ACTIVE = "active"
    RETIRING = "retiring"


class BucketState(enum.StrEnum):
    """Whether a bucket is in use; a retired one keeps its data and grants nothing."""

    ACTIVE = "active"
    RETIRED = "retired"


class Table(orm.DeclarativeBase):
    """Base of every table, with constraint names that migrations can address on any database."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime.datetime: UtcDateTime, str: sa.Text}  # noqa: RUF012 - SQLAlchemy reads it


def _words(words: type[enum.StrEnum]) -> sa.Enum:
    return sa.Enum(
        words,
        name=words.__name__.lower(),
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


class Identity(Table):
    """A user's own principal at the object store, bound to one subject of one issuer."""

    __tablename__ = "identities"
    __table_args__ = (sa.UniqueConstraint("issuer", "subject"),)

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    slug: orm.Mapped[str] = orm.mapped_column(unique=True)
    issuer: orm.Mapped[str]
    subject: orm.Mapped[str]
    admin: orm.Mapped[bool]
    state: orm.Mapped[IdentityState] = orm.mapped_column(_words(IdentityState))
    created: orm.Mapped[datetime.datetime]

    keys: orm.Mapped[list[Key]] = orm.relationship(back_populates="identity", order_by="Key.id")
    memberships: orm.Mapped[list[Membership]] = orm.relationship(
        back_populates="identity", cascade="all, delete-orphan"
    )

    @property
    def key(self) -> Key | None:
        """The key that is handed out, if there is one."""
        return next((key for key in self.keys if key.state is KeyState.ACTIVE), None)


class Key(Table):
    """A key pair of an identity; the secret is sealed."""

    __tablename__ = "keys"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    identity_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("identities.id"), index=True)
    access_key_id: orm.Mapped[str] = orm.mapped_column(unique=True)
    sealed_secret: orm.Mapped[bytes]
    state: orm.Mapped[KeyState] = orm.mapped_column(_words(KeyState))
    created: orm.Mapped[datetime.datetime]

    identity: orm.Mapped[Identity] = orm.relationship(back_populates="keys")


class Group(Table):
    """A group at the object store, by which everyone, or a large group of the hub, has access."""

    __tablename__ = "groups"

    kind: orm.Mapped[model.GranteeKind] = orm.mapped_column(_words(model.GranteeKind), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    generation: orm.Mapped[int]
    applied_generation: orm.Mapped[int]


class Membership(Table):
    """An identity in everyone or in a group of the hub; `joined` once it is in the store's group of that name."""

    __tablename__ = "memberships"

    identity_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("identities.id"), primary_key=True)
    kind: orm.Mapped[model.GranteeKind] = orm.mapped_column(_words(model.GranteeKind), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    joined: orm.Mapped[bool]

    identity: orm.Mapped[Identity] = orm.relationship(back_populates="memberships")


class Bucket(Table):
    """A bucket; `name` is its name in S3, `owner` the user who has or made it.

    `proven` is when a user's key first wrote to it; null until then.
    """

    __tablename__ = "buckets"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    kind: orm.Mapped[model.BucketKind] = orm.mapped_column(_words(model.BucketKind))
    owner: orm.Mapped[str | None] = orm.mapped_column(index=True)
    description: orm.Mapped[str]
    versions: orm.Mapped[bool]
    state: orm.Mapped[BucketState] = orm.mapped_column(_words(BucketState))
    generation: orm.Mapped[int]
    applied_generation: orm.Mapped[int]
    proven: orm.Mapped[datetime.datetime | None]
    created: orm.Mapped[datetime.datetime]

    grants: orm.Mapped[list[Grant]] = orm.relationship(
        back_populates="bucket", order_by="Grant.id", cascade="all, delete-orphan"
    )


class Grant(Table):
    """A grant on a bucket; at most one for each grantee and prefix."""

    __tablename__ = "grants"
    __table_args__ = (
        sa.UniqueConstraint("bucket_id", "prefix", "grantee_kind", "grantee_name"),
        sa.Index(None, "grantee_kind", "grantee_name"),
    )

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    bucket_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("buckets.id"))
    prefix: orm.Mapped[str]
    grantee_kind: orm.Mapped[model.GranteeKind] = orm.mapped_column(_words(model.GranteeKind))
    grantee_name: orm.Mapped[str]
    access: orm.Mapped[model.Access] = orm.mapped_column(_words(model.Access))
    expires_at: orm.Mapped[datetime.datetime | None]
    given_by: orm.Mapped[str]
    note: orm.Mapped[str]
    created: orm.Mapped[datetime.datetime]

    bucket: orm.Mapped[Bucket] = orm.relationship(back_populates="grants")

    @property
    def grantee(self) -> model.Grantee:
        """Whom the grant names."""
        return model.Grantee(self.grantee_kind, self.grantee_name)

    def view(self) -> model.Grant:
        """Return the grant as the other parts know it."""
        return model.Grant(self.bucket.name, self.grantee, self.access, self.prefix, self.expires_at, self.given_by)


class Audit(Table):
    """One change, or one refusal that an administrator should know of."""

    __tablename__ = "audit"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    at: orm.Mapped[datetime.datetime] = orm.mapped_column(index=True)
    who: orm.Mapped[str] = orm.mapped_column(index=True)
    what: orm.Mapped[str]
    object: orm.Mapped[str] = orm.mapped_column(index=True)
    origin: orm.Mapped[str]
