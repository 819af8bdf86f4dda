"""Tenants and the hashes of their API keys."""

import sqlalchemy as sa
from alembic import op

revision = "20261123_0002"
down_revision = "20261122_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_tenants()
    _create_api_keys()
    _adopt_tenants()


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("tenants")


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=True),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.CheckConstraint("(tenant IS NULL) = (scope = 'admin')", name=op.f("ck_api_keys_tenant")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name="fk_api_keys_tenant_tenants"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])


def _adopt_tenants() -> None:
    # Codebooks are older than this table: whoever owns one is a tenant, and `default` is one on every server.
    op.execute(
        "INSERT INTO tenants (name, created_at) SELECT name, CURRENT_TIMESTAMP FROM"
        " (SELECT 'default' AS name UNION SELECT tenant FROM codebooks) AS owners"
    )
