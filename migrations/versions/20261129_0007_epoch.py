"""The registry's epoch: a random id that is drawn anew after a restore from a backup."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "20261129_0007"
down_revision = "20261129_0006"
branch_labels = None
depends_on = None

_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    epochs = op.create_table(
        "epochs",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", _NAME, nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_epochs_one")),
        sa.PrimaryKeyConstraint("number", name="pk_epochs"),
    )
    op.bulk_insert(epochs, [{"number": 1, "epoch": uuid.uuid4().hex}])


def downgrade() -> None:
    op.drop_table("epochs")
