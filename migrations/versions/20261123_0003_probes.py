"""What a replica says of itself: applied and probed revisions, failed probes, refused revisions."""

import sqlalchemy as sa
from alembic import op

revision = "20261123_0003"
down_revision = "20261123_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_anew("report")


def downgrade() -> None:
    _make_anew("applied")


def _make_anew(column: str) -> None:
    # Heartbeats live for seconds, and each replica sends the next one in the new form: none is worth keeping.
    op.drop_table("replicas")
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column(column, sa.JSON(), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name="pk_replicas"),
    )
