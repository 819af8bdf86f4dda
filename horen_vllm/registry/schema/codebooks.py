"""Table of codebooks."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class CodebookRow(Base):
    """A codebook as it is now, with the counters that its edits and revisions are numbered from."""

    __tablename__ = "codebooks"
    __table_args__ = (UniqueConstraint("tenant", "name"), Index(None, "fingerprint"))

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    model: Mapped[str]
    fingerprint: Mapped[str]
    site: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    revision: Mapped[int]
    entry_count: Mapped[int]
    last_sequence: Mapped[int]
    """Sequence number of the newest edit; 0 before the first."""
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    oldest_revision: Mapped[int] = mapped_column(default=1, server_default="1")
    """Oldest revision whose entries are kept."""
    threshold_due: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether entries went without their threshold being computed anew."""
