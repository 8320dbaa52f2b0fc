"""Identities, keys, groups, buckets, grants and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go one revision up."""
    _make_identities()
    _make_buckets()
    _make_audit()


def downgrade() -> None:
    """Go one revision down."""
    for table in ("audit", "grants", "buckets", "memberships", "keys", "groups", "identities"):
        op.drop_table(table)


def _words(*values: str, name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _kinds() -> sa.Enum:
    return _words("user", "group", "everyone", name="granteekind")


def _make_identities() -> None:
    op.create_table(
        "identities",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("state", _words("active", "retired", name="identitystate"), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identities"),
        sa.UniqueConstraint("issuer", "subject", name="uq_identities_issuer_subject"),
        sa.UniqueConstraint("name", name="uq_identities_name"),
        sa.UniqueConstraint("slug", name="uq_identities_slug"),
    )
    op.create_table(
        "groups",
        sa.Column("kind", _kinds(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("applied_generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_groups"),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("access_key_id", sa.Text(), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("state", _words("active", "retiring", name="keystate"), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identities.id"], name="fk_keys_identity_id_identities"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("access_key_id", name="uq_keys_access_key_id"),
    )
    op.create_index("ix_keys_identity_id", "keys", ["identity_id"])
    op.create_table(
        "memberships",
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("kind", _kinds(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identities.id"], name="fk_memberships_identity_id_identities"),
        sa.PrimaryKeyConstraint("identity_id", "kind", "name", name="pk_memberships"),
    )


def _make_buckets() -> None:
    op.create_table(
        "buckets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", _words("personal", "shared", "common", name="bucketkind"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("versions", sa.Boolean(), nullable=False),
        sa.Column("state", _words("active", "retired", name="bucketstate"), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("applied_generation", sa.Integer(), nullable=False),
        sa.Column("proven", sa.DateTime(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_buckets"),
        sa.UniqueConstraint("name", name="uq_buckets_name"),
    )
    op.create_index("ix_buckets_owner", "buckets", ["owner"])
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bucket_id", sa.Integer(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("grantee_kind", _kinds(), nullable=False),
        sa.Column("grantee_name", sa.Text(), nullable=False),
        sa.Column("access", _words("read", "write", name="access"), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("given_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["bucket_id"], ["buckets.id"], name="fk_grants_bucket_id_buckets"),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
        sa.UniqueConstraint(
            "bucket_id",
            "prefix",
            "grantee_kind",
            "grantee_name",
            name="uq_grants_bucket_id_prefix_grantee_kind_grantee_name",
        ),
    )
    op.create_index("ix_grants_grantee_kind_grantee_name", "grants", ["grantee_kind", "grantee_name"])


def _make_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    for column in ("at", "object", "who"):
        op.create_index(f"ix_audit_{column}", "audit", [column])
