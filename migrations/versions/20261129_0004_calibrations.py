"""The threshold of each revision; calibrations of base models."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_0004"
down_revision = "20261123_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("revisions") as revisions:
        revisions.add_column(sa.Column("threshold", sa.Double(), nullable=True))
    _fill_thresholds()
    with op.batch_alter_table("revisions") as revisions:
        revisions.alter_column("threshold", existing_type=sa.Double(), nullable=False)
    _create_calibrations()


def downgrade() -> None:
    op.drop_table("calibrations")
    with op.batch_alter_table("revisions") as revisions:
        revisions.drop_column("threshold")


def _fill_thresholds() -> None:
    # Until now a codebook had one threshold all its life.
    codebooks = sa.table("codebooks", sa.column("id", sa.Integer()), sa.column("parameters", sa.JSON()))
    revisions = sa.table("revisions", sa.column("codebook_id", sa.Integer()), sa.column("threshold", sa.Double()))
    connection = op.get_bind()
    for codebook_id, parameters in connection.execute(sa.select(codebooks.c.id, codebooks.c.parameters)).all():
        of_codebook = sa.update(revisions).where(revisions.c.codebook_id == codebook_id)
        connection.execute(of_codebook.values(threshold=parameters["threshold"]))


def _create_calibrations() -> None:
    op.create_table(
        "calibrations",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("presets", sa.JSON(), nullable=False),
        sa.Column("recommended", sa.String(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", "version", name="pk_calibrations"),
    )
