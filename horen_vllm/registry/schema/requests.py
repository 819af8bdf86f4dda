"""Table of request ids: what a repeated request is answered with."""

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class RequestRow(Base):
    """A mutation that was asked for with a request id; kept for a day."""

    __tablename__ = "requests"
    __table_args__ = (Index(None, "created_at"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    """Whose id it is; empty for what belongs to no tenant."""
    request_id: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str]
    digest: Mapped[str]
    """sha256 (hex) of the request without its id."""
    reference: Mapped[str]
    """What was made: an edit's id, a revision's number, a name."""
    created_at: Mapped[datetime]
