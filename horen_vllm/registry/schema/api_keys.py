"""Table of API keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.schema.base import Base


class ApiKeyRow(Base):
    """A key by its digest; a row is never deleted, so that a revoked key stays known as one."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("(tenant IS NULL) = (scope IN ('admin', 'replica'))", name="tenant"),
        Index(None, "tenant"),
    )

    key_id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str | None] = mapped_column(ForeignKey("tenants.name"))
    scope: Mapped[KeyScope]
    digest: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
