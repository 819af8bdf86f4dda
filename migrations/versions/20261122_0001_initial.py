"""Codebooks, edits, memberships, revisions and replicas."""

import sqlalchemy as sa
from alembic import op

revision = "20261122_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_codebooks()
    _create_edits()
    _create_memberships()
    _create_revisions()
    _create_replicas()


def downgrade() -> None:
    for table in ("replicas", "revisions", "memberships", "edits", "codebooks"):
        op.drop_table(table)


def _create_codebooks() -> None:
    op.create_table(
        "codebooks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("entry_count", sa.Integer(), nullable=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        _time("created_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_codebooks"),
        sa.UniqueConstraint("tenant", "name", name="uq_codebooks_tenant_name"),
    )
    op.create_index("ix_codebooks_fingerprint", "codebooks", ["fingerprint"])


def _create_edits() -> None:
    op.create_table(
        "edits",
        sa.Column("edit_id", sa.String(), nullable=False),
        sa.Column("codebook_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("aliases", sa.JSON(), nullable=False),
        sa.Column("paraphrases", sa.JSON(), nullable=False),
        sa.Column("must_not_fire", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason_code", sa.String(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=True),
        _time("lease_expires_at", nullable=True),
        sa.Column("artifact", sa.String(), nullable=True),
        sa.Column("same_as", sa.String(), nullable=True),
        sa.Column("alias_of", sa.String(), nullable=True),
        sa.Column("supersedes", sa.JSON(), nullable=False),
        sa.Column("overlaps", sa.JSON(), nullable=False),
        sa.Column("published_revision", sa.Integer(), nullable=True),
        _time("created_at", nullable=False),
        _time("updated_at", nullable=False),
        _time("published_at", nullable=True),
        _time("finished_at", nullable=True),
        sa.PrimaryKeyConstraint("edit_id", name="pk_edits"),
        sa.UniqueConstraint("codebook_id", "sequence", name="uq_edits_codebook_id_sequence"),
        sa.UniqueConstraint("codebook_id", "request_id", name="uq_edits_codebook_id_request_id"),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (state IN ('committed', 'training', 'trained'))",
            name=op.f("ck_edits_finished"),
        ),
        sa.ForeignKeyConstraint(["codebook_id"], ["codebooks.id"], name="fk_edits_codebook_id_codebooks"),
        sa.ForeignKeyConstraint(["same_as"], ["edits.edit_id"], name="fk_edits_same_as_edits"),
        sa.ForeignKeyConstraint(["alias_of"], ["edits.edit_id"], name="fk_edits_alias_of_edits"),
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "ix_edits_queue",
        "edits",
        ["codebook_id", "sequence"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def _create_memberships() -> None:
    op.create_table(
        "memberships",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("codebook_id", sa.Integer(), nullable=False),
        sa.Column("edit_id", sa.String(), nullable=False),
        sa.Column("from_revision", sa.Integer(), nullable=False),
        sa.Column("to_revision", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_memberships"),
        sa.CheckConstraint("from_revision < to_revision", name=op.f("ck_memberships_interval")),
        sa.ForeignKeyConstraint(["codebook_id"], ["codebooks.id"], name="fk_memberships_codebook_id_codebooks"),
        sa.ForeignKeyConstraint(["edit_id"], ["edits.edit_id"], name="fk_memberships_edit_id_edits"),
    )
    still_open = sa.text("to_revision IS NULL")
    op.create_index(
        "uq_memberships_open",
        "memberships",
        ["edit_id"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("ix_memberships_edit_id_from_revision", "memberships", ["edit_id", "from_revision"], unique=True)
    for column in ("from_revision", "to_revision"):
        op.create_index(f"ix_memberships_codebook_id_{column}", "memberships", ["codebook_id", column])


def _create_revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("codebook_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("edit_id", sa.String(), nullable=True),
        sa.Column("restored", sa.Integer(), nullable=True),
        sa.Column("entry_count", sa.Integer(), nullable=False),
        _time("created_at", nullable=False),
        sa.PrimaryKeyConstraint("codebook_id", "number", name="pk_revisions"),
        sa.ForeignKeyConstraint(["codebook_id"], ["codebooks.id"], name="fk_revisions_codebook_id_codebooks"),
        sa.ForeignKeyConstraint(["edit_id"], ["edits.edit_id"], name="fk_revisions_edit_id_edits"),
    )


def _create_replicas() -> None:
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("applied", sa.JSON(), nullable=False),
        _time("lease_expires_at", nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name="pk_replicas"),
    )


def _time(name: str, *, nullable: bool) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
