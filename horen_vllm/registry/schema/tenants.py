"""Table of tenants."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class TenantRow(Base):
    """Who may own codebooks and keys."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
