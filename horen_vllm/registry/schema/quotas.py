"""Table of quotas: what each tenant may use."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class QuotaRow(Base):
    """A tenant's limits; null: none."""

    __tablename__ = "quotas"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    max_codebooks: Mapped[int | None]
    max_entries: Mapped[int | None]
    max_pending: Mapped[int | None]
    edits_per_minute: Mapped[int | None]
    updated_at: Mapped[datetime]
