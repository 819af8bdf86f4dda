"""Serving replicas in SQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from horen_vllm.registry.models import ReplicaRecord, ReplicaReport
from horen_vllm.registry.records import replica_record
from horen_vllm.registry.replica_report import report_to_json
from horen_vllm.registry.schema import ReplicaRow
from horen_vllm.registry.sql_store import SqlStore

FORGET_AFTER: Final = timedelta(days=1)
"""A replica whose lease ended this long ago is forgotten, so that renamed ones do not pile up."""


class SqlReplicaStore(SqlStore):
    """`ports.ReplicaStore` on SQL."""

    def heartbeat(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        report: ReplicaReport,
        lease_s: float,
    ) -> ReplicaRecord:
        """Renew a replica's lease for `lease_s` seconds and record what it says of itself."""
        with self._database.write("heartbeat") as session:
            now = self._clock()
            session.execute(delete(ReplicaRow).where(ReplicaRow.lease_expires_at < now - FORGET_AFTER))
            row = ReplicaRow(
                replica_id=replica_id,
                model=model,
                fingerprint=fingerprint,
                report=report_to_json(report),
                lease_expires_at=now + timedelta(seconds=lease_s),
            )
            return replica_record(session.merge(row))

    def live_replicas(self, fingerprint: str | None = None) -> Sequence[ReplicaRecord]:
        """Return replicas with an unexpired lease (of one base model, when given) by id."""
        live = select(ReplicaRow).where(ReplicaRow.lease_expires_at > self._clock())
        if fingerprint is not None:
            live = live.where(ReplicaRow.fingerprint == fingerprint)
        with self._database.read() as session:
            return [replica_record(row) for row in session.scalars(live.order_by(ReplicaRow.replica_id))]
