"""Reading the audit log in SQL; every change writes it (`audit_log.record`), and nothing changes it."""

from collections.abc import Sequence

from sqlalchemy import select

from horen_vllm.ids import TenantId
from horen_vllm.registry.models import AuditRecord
from horen_vllm.registry.schema import AuditRow
from horen_vllm.registry.sql_store import SqlStore


class SqlAuditLog(SqlStore):
    """`ports.AuditLog` on SQL."""

    def list_audit_events(
        self, tenant: TenantId | None = None, *, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """Return at most `limit` events (that concern `tenant`, when given) with a greater number, oldest first."""
        query = select(AuditRow).where(AuditRow.number > after).order_by(AuditRow.number).limit(limit)
        if tenant is not None:
            query = query.where(AuditRow.tenant == tenant)
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query)]


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        number=row.number,
        created_at=row.created_at,
        actor=row.actor,
        method=row.method,
        tenant=None if row.tenant is None else TenantId(row.tenant),
        resource=row.resource,
        call_id=row.request_id,
        detail=row.detail,
    )
