"""Names and ids are compared and ordered byte by byte on PostgreSQL, too; memberships are counted in 64 bits there."""

from alembic import op

revision = "20261129_0006"
down_revision = "20261129_0005"
branch_labels = None
depends_on = None

_NAMES = {
    "api_keys": ("key_id", "tenant", "digest"),
    "artifacts": ("digest",),
    "attempts": ("edit_id", "worker", "outcome"),
    "audit_log": ("actor", "method", "tenant", "resource", "request_id"),
    "calibrations": ("fingerprint", "site", "recommended"),
    "codebooks": ("tenant", "name", "model", "fingerprint", "site"),
    "edits": ("edit_id", "request_id", "reason_code", "worker", "artifact", "same_as", "alias_of", "origin"),
    "memberships": ("edit_id",),
    "previews": ("preview_id", "worker"),
    "quotas": ("tenant",),
    "replicas": ("replica_id", "model", "fingerprint"),
    "requests": ("tenant", "request_id", "method", "digest", "reference"),
    "revisions": ("edit_id",),
    "tenants": ("name",),
}


def upgrade() -> None:
    _collate('"C"')
    _count_memberships("BIGINT")


def downgrade() -> None:
    _count_memberships("INTEGER")
    _collate('"default"')


def _collate(collation: str) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, columns in _NAMES.items():
        changes = ", ".join(f"ALTER COLUMN {column} TYPE VARCHAR COLLATE {collation}" for column in columns)
        op.execute(f"ALTER TABLE {table} {changes}")


def _count_memberships(number: str) -> None:
    # Every rollback may write one for each entry of its codebook: 32 bits can come to their end.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE memberships ALTER COLUMN id TYPE {number}")
        op.execute(f"ALTER SEQUENCE memberships_id_seq AS {number}")
