"""Edits in SQL as their users see them: submission and lookup."""

from collections.abc import Collection, Sequence

from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.attempt_log import attempts_at
from horen_vllm.registry.edit_rows import edit_records, edits_with_state, find_edit
from horen_vllm.registry.intake import Intake
from horen_vllm.registry.models import AttemptRecord, EditRecord, EditSpec, EditState, RequestKey
from horen_vllm.registry.schema import EditRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook
from horen_vllm.registry.submission import Submission


class SqlEditSubmissions(SqlStore):
    """The half of `ports.EditQueue` that users need, on SQL."""

    def submit(
        self,
        name: CodebookName,
        spec: EditSpec,
        *,
        request: RequestKey | None = None,
        ttl_s: float | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Store an edit durably as COMMITTED.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        AlreadyExists
            ``request_id_reused``.
        ResourceExhausted
            ``quota_exceeded``.
        """
        submission = Submission(codebook=name, spec=spec, request=request, ttl_s=ttl_s)
        (outcome,) = self.submit_many((submission,), validate_only=validate_only)
        if isinstance(outcome, HorenError):
            raise outcome
        return outcome

    def submit_many(
        self, submissions: Sequence[Submission], *, validate_only: bool = False
    ) -> tuple[EditRecord | HorenError, ...]:
        """Store edits in one transaction; return each one's record, or the error for which it was not stored."""
        if validate_only:
            with self._database.write("") as session:
                return Intake(session, submissions, self._clock()).check()
        with self._database.write("submit") as session:
            return Intake(session, submissions, self._clock()).store()

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit.

        Raises
        ------
        NotFound
            ``unknown_edit``.
        """
        with self._database.read() as session:
            return find_edit(session, edit_id)

    def list_edits(
        self,
        name: CodebookName,
        *,
        after_sequence: int = 0,
        limit: int = 1000,
        states: Collection[EditState] = (),
    ) -> Sequence[EditRecord]:
        """Return at most `limit` edits of the codebook with a greater sequence, oldest first.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            query = (
                edits_with_state()
                .where(EditRow.codebook_id == codebook.id, EditRow.sequence > after_sequence)
                .order_by(EditRow.sequence)
                .limit(limit)
            )
            if states:
                query = query.where(EditRow.state.in_(states))
            return edit_records(session, session.execute(query))

    def attempts(self, edit_id: EditId) -> Sequence[AttemptRecord]:
        """Return the times that workers have taken an edit, oldest first."""
        with self._database.read() as session:
            return attempts_at(session, edit_id)
