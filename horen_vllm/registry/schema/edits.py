"""Table of edits: what was submitted, the work on it, and what became of it."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.models import EditState
from horen_vllm.registry.schema.base import Base

_UNFINISHED = text("finished_at IS NULL")
_EXPIRING = text("expires_at IS NOT NULL AND retired_at IS NULL")
_SAME = text("same_as IS NOT NULL")


class EditRow(Base):
    """An edit; `finished_at` is null exactly while a worker may still take it."""

    __tablename__ = "edits"
    __table_args__ = (
        UniqueConstraint("codebook_id", "sequence"),
        UniqueConstraint("codebook_id", "origin"),
        CheckConstraint("(finished_at IS NULL) = (state IN ('committed', 'training', 'trained'))", name="finished"),
        # The queue's head of each codebook is read at every claim: it must not scan the finished edits.
        Index(
            "ix_edits_queue",
            "codebook_id",
            "sequence",
            sqlite_where=_UNFINISHED,
            postgresql_where=_UNFINISHED,
        ),
        Index("ix_edits_expiring", "expires_at", sqlite_where=_EXPIRING, postgresql_where=_EXPIRING),
        Index(None, "artifact"),
        # Who takes an entry over when its edit is retired.
        Index("ix_edits_same_as", "same_as", sqlite_where=_SAME, postgresql_where=_SAME),
    )

    edit_id: Mapped[str] = mapped_column(primary_key=True)
    codebook_id: Mapped[int] = mapped_column(ForeignKey("codebooks.id"))
    sequence: Mapped[int]
    request_id: Mapped[str | None]
    prompt: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    aliases: Mapped[tuple[str, ...]]
    paraphrases: Mapped[tuple[str, ...]]
    must_not_fire: Mapped[tuple[str, ...]]
    state: Mapped[EditState]
    reason_code: Mapped[str | None]
    reason: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int]
    worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    artifact: Mapped[str | None]
    same_as: Mapped[str | None] = mapped_column(ForeignKey("edits.edit_id"))
    alias_of: Mapped[str | None] = mapped_column(ForeignKey("edits.edit_id"))
    supersedes: Mapped[tuple[str, ...]]
    overlaps: Mapped[tuple[str, ...]]
    published_revision: Mapped[int | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
    origin: Mapped[str]
    """The id that it had where it was submitted; its own unless it was imported."""
