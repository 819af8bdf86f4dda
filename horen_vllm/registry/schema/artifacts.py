"""Table of artifacts: which files the store holds, by content hash."""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.models import ArtifactState
from horen_vllm.registry.schema.base import Base


class ArtifactRow(Base):
    """One file; it is written here before the file is."""

    __tablename__ = "artifacts"
    __table_args__ = (Index(None, "state", "changed_at"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[ArtifactState]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    """When `state` was last set."""
