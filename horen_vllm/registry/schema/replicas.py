"""Table of serving replicas."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class ReplicaRow(Base):
    """A replica's last heartbeat."""

    __tablename__ = "replicas"

    replica_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    fingerprint: Mapped[str]
    # One heartbeat is one value: it is written and read as a whole, and may name codebooks that are gone.
    report: Mapped[dict[str, Any]]
    """As `replica_report` writes it."""
    lease_expires_at: Mapped[datetime]
