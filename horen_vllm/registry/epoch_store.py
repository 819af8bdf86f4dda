"""The registry's epoch in SQL."""

import uuid
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import ReplicaReport
from horen_vllm.registry.replica_report import report_to_json
from horen_vllm.registry.schema import EpochRow, ReplicaRow
from horen_vllm.registry.sql_store import SqlStore

_ROW: Final = 1
_NOTHING: Final = ReplicaReport(applied={}, probed={})


class SqlEpoch(SqlStore):
    """`ports.EpochStore` on SQL."""

    def epoch(self) -> str:
        """Return the id of what the revisions of this registry belong to."""
        with self._database.read() as session:
            return session.get_one(EpochRow, _ROW).epoch

    def begin_epoch(self) -> str:
        """Draw another epoch and return it: to be called after a restore from a backup.

        What replicas have said is forgotten, since it is about other revisions; their leases go on.
        """
        with self._database.write("begin_epoch") as session:
            row = session.get_one(EpochRow, _ROW, with_for_update=True)
            before, row.epoch = row.epoch, uuid.uuid4().hex
            session.execute(update(ReplicaRow).values(report=report_to_json(_NOTHING)))
            detail = {"before": before, "epoch": row.epoch}
            record(session, "begin_epoch", tenant=None, resource="registry", now=self._clock(), detail=detail)
            return row.epoch


def require_epoch(session: Session, epoch: str) -> None:
    """Check that somebody speaks of this registry's epoch, which cannot change until the commit.

    Raises
    ------
    FailedPrecondition
        ``other_epoch``.
    """
    # Shared: heartbeats do not wait for one another.
    current = session.get_one(EpochRow, _ROW, with_for_update={"read": True}).epoch
    if epoch != current:
        raise other_epoch(epoch, current)


def other_epoch(given: str, current: str) -> FailedPrecondition:
    """Return the refusal of a replica that speaks of the epoch `given`."""
    message = (
        f"The registry is of epoch {current}, not {given[:64]!r}: it was restored since, and its revisions are others. "
        "Ask for them anew."
    )
    return FailedPrecondition(message, code="other_epoch")
