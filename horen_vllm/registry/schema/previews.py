"""Table of previews: questions to a worker, which live as long as the call that asks."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class PreviewRow(Base):
    """An edit that somebody considers, and a worker's answer."""

    __tablename__ = "previews"
    __table_args__ = (Index(None, "codebook_id", "created_at"),)

    preview_id: Mapped[str] = mapped_column(primary_key=True)
    codebook_id: Mapped[int] = mapped_column(ForeignKey("codebooks.id"))
    spec: Mapped[dict[str, Any]]
    answer: Mapped[dict[str, Any] | None]
    worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    """The caller waits no longer; then the row goes."""
