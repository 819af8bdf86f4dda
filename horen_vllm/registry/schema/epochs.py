"""Table of the registry's epoch, of one row, which the migration makes."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class EpochRow(Base):
    """What the revisions of this database belong to."""

    __tablename__ = "epochs"
    __table_args__ = (CheckConstraint("number = 1", name="one"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    epoch: Mapped[str]
    """Random; another one after a restore from a backup, since revisions then get the same numbers again."""
