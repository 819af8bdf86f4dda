"""Request ids, attempts, artifacts, audit log, quotas and previews; retired, expiring and imported edits."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_0005"
down_revision = "20261129_0004"
branch_labels = None
depends_on = None

_UTC = sa.DateTime(timezone=True)
_EXPIRING = sa.text("expires_at IS NOT NULL AND retired_at IS NULL")
_SAME = sa.text("same_as IS NOT NULL")


def upgrade() -> None:
    _extend_edits()
    with op.batch_alter_table("codebooks") as codebooks:
        codebooks.add_column(sa.Column("deleted_at", _UTC, nullable=True))
        codebooks.add_column(sa.Column("oldest_revision", sa.Integer(), nullable=False, server_default="1"))
        codebooks.add_column(sa.Column("threshold_due", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_constraint(op.f("ck_api_keys_tenant"), type_="check")
        keys.create_check_constraint(op.f("ck_api_keys_tenant"), "(tenant IS NULL) = (scope IN ('admin', 'replica'))")
    _create_requests()
    _create_attempts()
    _create_artifacts()
    _create_audit_log()
    _create_quotas()
    _create_previews()


def downgrade() -> None:
    _drop_audit_triggers()
    for table in ("previews", "quotas", "audit_log", "artifacts", "attempts", "requests"):
        op.drop_table(table)
    op.execute("DELETE FROM api_keys WHERE scope = 'replica'")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_constraint(op.f("ck_api_keys_tenant"), type_="check")
        keys.create_check_constraint(op.f("ck_api_keys_tenant"), "(tenant IS NULL) = (scope = 'admin')")
    with op.batch_alter_table("codebooks") as codebooks:
        for column in ("threshold_due", "oldest_revision", "deleted_at"):
            codebooks.drop_column(column)
    op.drop_index("ix_edits_same_as", "edits")
    op.drop_index("ix_edits_expiring", "edits")
    op.drop_index(op.f("ix_edits_artifact"), "edits")
    with op.batch_alter_table("edits") as edits:
        edits.drop_constraint(op.f("uq_edits_codebook_id_origin"), type_="unique")
        for column in ("origin", "retired_at", "expires_at"):
            edits.drop_column(column)
        edits.create_unique_constraint(op.f("uq_edits_codebook_id_request_id"), ["codebook_id", "request_id"])


def _extend_edits() -> None:
    with op.batch_alter_table("edits") as edits:
        edits.add_column(sa.Column("expires_at", _UTC, nullable=True))
        edits.add_column(sa.Column("retired_at", _UTC, nullable=True))
        edits.add_column(sa.Column("origin", sa.String(), nullable=True))
        # A request id may be used again after a day; `requests` holds the rule.
        edits.drop_constraint(op.f("uq_edits_codebook_id_request_id"), type_="unique")
    op.execute("UPDATE edits SET origin = edit_id")
    with op.batch_alter_table("edits") as edits:
        edits.alter_column("origin", existing_type=sa.String(), nullable=False)
        edits.create_unique_constraint(op.f("uq_edits_codebook_id_origin"), ["codebook_id", "origin"])
    op.create_index("ix_edits_expiring", "edits", ["expires_at"], sqlite_where=_EXPIRING, postgresql_where=_EXPIRING)
    op.create_index(op.f("ix_edits_artifact"), "edits", ["artifact"])
    op.create_index("ix_edits_same_as", "edits", ["same_as"], sqlite_where=_SAME, postgresql_where=_SAME)


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("created_at", _UTC, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "request_id", name="pk_requests"),
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"])


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("edit_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("started_at", _UTC, nullable=False),
        sa.Column("ended_at", _UTC, nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["edit_id"], ["edits.edit_id"], name=op.f("fk_attempts_edit_id_edits")),
        sa.PrimaryKeyConstraint("edit_id", "number", name="pk_attempts"),
    )


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", _UTC, nullable=False),
        sa.Column("changed_at", _UTC, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifacts"),
    )
    op.create_index(op.f("ix_artifacts_state_changed_at"), "artifacts", ["state", "changed_at"])


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", _UTC, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=True),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_log"),
    )
    op.create_index(op.f("ix_audit_log_tenant_number"), "audit_log", ["tenant", "number"])
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER audit_log_no_{act} BEFORE {act.upper()} ON audit_log "
                "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION audit_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_log_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows()"
        )


def _drop_audit_triggers() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(f"DROP TRIGGER audit_log_no_{act}")
    else:
        op.execute("DROP TRIGGER audit_log_only_grows ON audit_log")
        op.execute("DROP FUNCTION audit_log_only_grows()")


def _create_quotas() -> None:
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("max_codebooks", sa.Integer(), nullable=True),
        sa.Column("max_entries", sa.Integer(), nullable=True),
        sa.Column("max_pending", sa.Integer(), nullable=True),
        sa.Column("edits_per_minute", sa.Integer(), nullable=True),
        sa.Column("updated_at", _UTC, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_quotas_tenant_tenants")),
        sa.PrimaryKeyConstraint("tenant", name="pk_quotas"),
    )


def _create_previews() -> None:
    op.create_table(
        "previews",
        sa.Column("preview_id", sa.String(), nullable=False),
        sa.Column("codebook_id", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("lease_expires_at", _UTC, nullable=True),
        sa.Column("created_at", _UTC, nullable=False),
        sa.Column("expires_at", _UTC, nullable=False),
        sa.ForeignKeyConstraint(["codebook_id"], ["codebooks.id"], name=op.f("fk_previews_codebook_id_codebooks")),
        sa.PrimaryKeyConstraint("preview_id", name="pk_previews"),
    )
    op.create_index(op.f("ix_previews_codebook_id_created_at"), "previews", ["codebook_id", "created_at"])
