"""Thresholds that are to be computed anew since entries have gone."""

from collections.abc import Sequence

from sqlalchemy import exists, select

from horen_vllm.ids import CodebookName
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import RevisionKind, RevisionRecord
from horen_vllm.registry.publishing import require_revision
from horen_vllm.registry.records import codebook_name, revision_record
from horen_vllm.registry.revisioning import add_revision
from horen_vllm.registry.schema import CodebookRow, EditRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook


class SqlThresholdStore(SqlStore):
    """`ports.ThresholdStore` on SQL."""

    def thresholds_due(self, fingerprint: str) -> Sequence[CodebookName]:
        """Return codebooks of a base model whose threshold is to be computed anew and whose edits nobody makes now.

        Where somebody does, the next publication sets the threshold.
        """
        held = exists().where(
            EditRow.codebook_id == CodebookRow.id,
            EditRow.finished_at.is_(None),
            EditRow.lease_expires_at > self._clock(),
        )
        due = CodebookRow.threshold_due.is_(True), CodebookRow.deleted_at.is_(None)
        query = select(CodebookRow).where(CodebookRow.fingerprint == fingerprint, *due, ~held)
        with self._database.read() as session:
            return [codebook_name(row) for row in session.scalars(query.order_by(CodebookRow.id))]

    def set_threshold(self, name: CodebookName, *, base_revision: int, threshold: float) -> RevisionRecord | None:
        """Make a revision with the threshold that the entries of `base_revision` call for.

        Returns
        -------
        RevisionRecord | None
            None when there is nothing to do: the threshold is right as it is, or somebody was faster.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        FailedPrecondition
            ``revision_moved``.
        InvalidArgument
            ``invalid_parameter``, for a threshold that is no cosine.
        """
        with self._database.write("set_threshold") as session:
            now = self._clock()
            codebook = find_codebook(session, name, lock=True)
            require_revision(codebook, base_revision)
            if not codebook.threshold_due:
                return None
            codebook.threshold_due = False
            if codebook.parameters["threshold"] == threshold:
                return None
            row = add_revision(
                session,
                codebook,
                kind=RevisionKind.THRESHOLD,
                entry_count=codebook.entry_count,
                now=now,
                threshold=threshold,
            )
            detail = {"revision": row.number, "threshold": threshold}
            record(session, "set_threshold", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            return revision_record(row, name)
