"""Serving replicas in SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from horen_vllm.registry.epoch_store import require_epoch
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
        epoch: str,
        report: ReplicaReport,
        lease_s: float,
    ) -> ReplicaRecord:
        """Renew a replica's lease for `lease_s` seconds and record what it says of itself.

        Raises
        ------
        FailedPrecondition
            ``other_epoch``, when it speaks of the revisions of another epoch.
        """
        with self._database.write("heartbeat") as session:
            require_epoch(session, epoch)
            now = self._clock()
            _forget(session, before=now - FORGET_AFTER)
            row = ReplicaRow(
                replica_id=replica_id,
                model=model,
                fingerprint=fingerprint,
                report=report_to_json(report),
                lease_expires_at=now + timedelta(seconds=lease_s),
            )
            _insert_or_replace(session, row)
            return replica_record(row)

    def live_replicas(self, fingerprint: str | None = None) -> Sequence[ReplicaRecord]:
        """Return replicas with an unexpired lease (of one base model, when given) by id."""
        live = select(ReplicaRow).where(ReplicaRow.lease_expires_at > self._clock())
        if fingerprint is not None:
            live = live.where(ReplicaRow.fingerprint == fingerprint)
        with self._database.read() as session:
            return [replica_record(row) for row in session.scalars(live.order_by(ReplicaRow.replica_id))]


def _forget(session: Session, before: datetime) -> None:
    # What another heartbeat is just deleting is left to it: waiting for it could end in a deadlock.
    dead = select(ReplicaRow.replica_id).where(ReplicaRow.lease_expires_at < before).with_for_update(skip_locked=True)
    session.execute(delete(ReplicaRow).where(ReplicaRow.replica_id.in_(dead)))


def _insert_or_replace(session: Session, row: ReplicaRow) -> None:
    # In one statement: two first heartbeats of one replica may come at once.
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {column.name: getattr(row, column.name) for column in ReplicaRow.__table__.columns}
    statement = insert(ReplicaRow).values(values)
    session.execute(statement.on_conflict_do_update(index_elements=[ReplicaRow.replica_id], set_=values))
