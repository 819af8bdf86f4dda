"""Table of the audit log; triggers of the migration refuse to change or delete its rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import DDL, BigInteger, Index, Integer, event
from sqlalchemy.orm import Mapped, mapped_column

from horen_vllm.registry.schema.base import Base


class AuditRow(Base):
    """Something that was done; written in the transaction that did it."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "tenant", "number"),)

    # SQLite counts by itself only in a column of type INTEGER.
    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    created_at: Mapped[datetime]
    actor: Mapped[str]
    method: Mapped[str]
    tenant: Mapped[str | None]
    resource: Mapped[str]
    request_id: Mapped[str | None]
    """Id of the call, as in the log."""
    detail: Mapped[dict[str, Any]]


_ONLY_GROWS = {
    "sqlite": (
        (
            "CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        ),
        (
            "CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION audit_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
        ),
        (
            "CREATE TRIGGER audit_log_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows()"
        ),
    ),
}
for _dialect, _statements in _ONLY_GROWS.items():
    for _statement in _statements:
        event.listen(AuditRow.__table__, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
