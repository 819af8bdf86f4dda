"""Table of attempts: each time that a worker took an edit."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class AttemptRow(Base):
    """One claim of one edit; `ended_at` is null while it runs."""

    __tablename__ = "attempts"

    edit_id: Mapped[str] = mapped_column(ForeignKey("edits.edit_id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
