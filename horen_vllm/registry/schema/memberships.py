"""Table of memberships: in which revisions a codebook contains an entry."""

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, ForeignKey, Index, Integer, and_, or_, text
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base

_OPEN = text("to_revision IS NULL")


class MembershipRow(Base):
    """An interval of revisions, ``from_revision <= R < to_revision`` (null: and all later ones), with an entry.

    A revision is thus stored as what changed in it, whatever its size.
    """

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint("from_revision < to_revision", name="interval"),
        Index(
            "uq_memberships_open",
            "edit_id",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index(None, "edit_id", "from_revision", unique=True),
        Index(None, "codebook_id", "from_revision"),
        Index(None, "codebook_id", "to_revision"),
    )

    # SQLite counts by itself only in a column of type INTEGER, which has 64 bits there.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    codebook_id: Mapped[int] = mapped_column(ForeignKey("codebooks.id"))
    edit_id: Mapped[str] = mapped_column(ForeignKey("edits.edit_id"))
    from_revision: Mapped[int]
    to_revision: Mapped[int | None]

    @classmethod
    def contains(cls, revision: int) -> ColumnElement[bool]:
        """Return the condition that the interval contains `revision`."""
        ends_later = or_(cls.to_revision.is_(None), cls.to_revision > revision)
        return and_(cls.from_revision <= revision, ends_later)
