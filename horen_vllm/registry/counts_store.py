"""How much there is, in SQL."""

from sqlalchemy import func, select

from horen_vllm.registry.models import RegistryCounts
from horen_vllm.registry.schema import AuditRow, CodebookRow, EditRow, ReplicaRow
from horen_vllm.registry.sql_store import SqlStore


class SqlCounts(SqlStore):
    """Counts of the SQL registry."""

    def counts(self) -> RegistryCounts:
        """Return how much there is, over all tenants; reads the unfinished edits only, whatever else there is."""
        now = self._clock()
        unfinished = EditRow.finished_at.is_(None)
        by_state = select(EditRow.state, func.count(), func.min(EditRow.created_at)).where(unfinished)
        held = select(func.count(), func.count(EditRow.worker.distinct()))
        held = held.where(unfinished, EditRow.worker.is_not(None), EditRow.lease_expires_at > now)
        replicas = select(func.count()).select_from(ReplicaRow).where(ReplicaRow.lease_expires_at > now)
        codebooks = select(func.count()).select_from(CodebookRow).where(CodebookRow.deleted_at.is_(None))
        with self._database.read() as session:
            states = session.execute(by_state.group_by(EditRow.state)).all()
            claimed, workers = session.execute(held).one()
            oldest = min((created for _, _, created in states), default=now)
            return RegistryCounts(
                unfinished={state: number for state, number, _ in states},
                oldest_unfinished_s=max(0.0, (now - oldest).total_seconds()),
                claimed=claimed,
                workers=workers,
                live_replicas=session.scalar(replicas) or 0,
                codebooks=session.scalar(codebooks) or 0,
                audit_events=session.scalar(select(func.max(AuditRow.number))) or 0,
            )
