"""Table of revisions: what made each one; its entries follow from the memberships."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.models import RevisionKind
from horen_vllm.registry.schema.base import Base


class RevisionRow(Base):
    """One revision; a row is written once and never changed."""

    __tablename__ = "revisions"

    codebook_id: Mapped[int] = mapped_column(ForeignKey("codebooks.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[RevisionKind]
    edit_id: Mapped[str | None] = mapped_column(ForeignKey("edits.edit_id"))
    restored: Mapped[int | None]
    entry_count: Mapped[int]
    created_at: Mapped[datetime]
    threshold: Mapped[float]
