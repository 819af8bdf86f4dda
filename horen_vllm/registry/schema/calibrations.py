"""Table of calibrations: what was found for a base model, by version."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class CalibrationRow(Base):
    """One calibration; a row is written once and never changed."""

    __tablename__ = "calibrations"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    site: Mapped[str]
    presets: Mapped[dict[str, Any]]
    """Method parameters by preset, as `MethodParameters.to_dict` writes them."""
    recommended: Mapped[str]
    summary: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
