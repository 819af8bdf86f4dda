"""Edits in SQL: submission, the queue, and what workers report."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from horen_vllm.errors import AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.edit_rows import (
    claimable,
    edit_by_request,
    edits_with_state,
    is_active,
    require_edits,
)
from horen_vllm.registry.models import (
    MAX_ATTEMPTS,
    Claim,
    EditRecord,
    EditSpec,
    EditState,
    Publication,
    RevisionKind,
)
from horen_vllm.registry.records import codebook_name, edit_record, edit_spec
from horen_vllm.registry.revisioning import add_revision, close_entries, open_entry
from horen_vllm.registry.schema import CodebookRow, EditRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook


class SqlEditQueue(SqlStore):
    """`ports.EditQueue` on SQL."""

    def submit(self, name: CodebookName, spec: EditSpec, *, request_id: str | None = None) -> EditRecord:
        """Store an edit durably as COMMITTED; a repeated `request_id` returns the first record.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        AlreadyExists
            ``request_id_reused``, when the first record has another `spec`.
        """
        with self._database.write() as session:
            codebook = find_codebook(session, name, lock=True)
            first = None if request_id is None else edit_by_request(session, codebook, request_id)
            if first is not None:
                return _replayed(session, first, name, spec)
            codebook.last_sequence += 1
            row = _new_row(codebook, spec, request_id, self._clock())
            session.add(row)
            return edit_record(row, name, active=False)

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit.

        Raises
        ------
        NotFound
            ``unknown_edit``.
        """
        query = edits_with_state().where(EditRow.edit_id == edit_id)
        with self._database.read() as session:
            found = session.execute(query).one_or_none()
            if found is None:
                raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
            row, codebook, active = found
            return edit_record(row, codebook_name(codebook), active=active)

    def list_edits(self, name: CodebookName, *, after_sequence: int = 0, limit: int = 1000) -> Sequence[EditRecord]:
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
            return [edit_record(row, name, active=active) for row, _, active in session.execute(query)]

    def claim(self, worker: str, *, lease_s: float, fingerprint: str) -> Claim | None:
        """Take the oldest edit that may be worked on, for `lease_s` seconds; None when there is none.

        Only the oldest unfinished edit of a codebook is ever handed out, so a codebook has one worker at a time.
        Edits that have used up their attempts are closed as FAILED, ``attempts_exhausted``, on the way.
        """
        with self._database.write() as session:
            now = self._clock()
            while (found := session.execute(claimable(fingerprint, now)).first()) is not None:
                row, codebook = found
                if row.attempt < MAX_ATTEMPTS:
                    _hand_out(row, worker, now, lease_s)
                    return _claim(row, codebook_name(codebook), worker)
                _give_up(row, now)
            return None

    def extend(self, claim: Claim, *, lease_s: float) -> Claim:
        """Move the lease's end to `lease_s` seconds from now.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``, when a newer attempt exists or the edit is finished.
        """
        with self._database.write() as session:
            _, row = _held(session, claim)
            _lease(row, self._clock(), lease_s)
            return _claim(row, claim.edit.codebook, claim.worker)

    def trained(self, claim: Claim) -> EditRecord:
        """Mark the edit as TRAINED, however often; the claim and its lease stay as they are.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``.
        """
        with self._database.write() as session:
            _, row = _held(session, claim)
            row.state = EditState.TRAINED
            row.updated_at = self._clock()
            return edit_record(row, claim.edit.codebook, active=False)

    def publish(self, claim: Claim, publication: Publication) -> EditRecord:
        """Make the next revision with the new entry and without the superseded ones, in one transaction.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``; ``revision_moved``, when the codebook is not at `publication.base_revision`.
        NotFound
            ``unknown_edit``, when the publication names an edit that the codebook lacks.
        """
        with self._database.write() as session:
            codebook, row = _held(session, claim)
            _require_base(codebook, claim, publication)
            require_edits(session, codebook, _named_edits(publication))
            now = self._clock()
            closed = close_entries(session, codebook, publication.supersedes)
            open_entry(session, codebook, row.edit_id)
            add_revision(
                session,
                codebook,
                kind=RevisionKind.PUBLISH,
                entry_count=codebook.entry_count + 1 - len(closed),
                now=now,
                edit_id=row.edit_id,
            )
            row.artifact = publication.artifact
            row.alias_of = publication.alias_of
            row.supersedes = tuple(edit for edit in publication.supersedes if edit in closed)
            row.overlaps = publication.overlaps
            _publish_row(row, codebook, now)
            return edit_record(row, claim.edit.codebook, active=True)

    def finish_same(self, claim: Claim, same_as: EditId) -> EditRecord:
        """Close the edit as already there: PUBLISHED at the current revision, without an entry of its own.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``; ``revision_moved``, when the entry of `same_as` has left the codebook meanwhile.
        NotFound
            ``unknown_edit``, when the codebook has no edit `same_as`.
        """
        with self._database.write() as session:
            codebook, row = _held(session, claim)
            require_edits(session, codebook, (same_as,))
            if not is_active(session, same_as):
                message = f"The entry of edit {same_as} is not in revision {codebook.revision} any more."
                raise FailedPrecondition(message, code="revision_moved")
            row.same_as = same_as
            _publish_row(row, codebook, self._clock())
            return edit_record(row, claim.edit.codebook, active=False)

    def fail(self, claim: Claim, code: str, reason: str) -> EditRecord:
        """Close the edit as FAILED with its reason.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``.
        """
        with self._database.write() as session:
            _, row = _held(session, claim)
            _fail(row, code=code, reason=reason, now=self._clock())
            return edit_record(row, claim.edit.codebook, active=False)


def _new_row(codebook: CodebookRow, spec: EditSpec, request_id: str | None, now: datetime) -> EditRow:
    return EditRow(
        edit_id=new_edit_id(),
        codebook_id=codebook.id,
        sequence=codebook.last_sequence,
        request_id=request_id,
        prompt=spec.prompt,
        target=spec.target,
        subject=spec.subject,
        aliases=spec.aliases,
        paraphrases=spec.paraphrases,
        must_not_fire=spec.must_not_fire,
        state=EditState.COMMITTED,
        attempt=0,
        supersedes=(),
        overlaps=(),
        created_at=now,
        updated_at=now,
    )


def _replayed(session: Session, first: EditRow, name: CodebookName, spec: EditSpec) -> EditRecord:
    if edit_spec(first) != spec:
        message = f"The request id {first.request_id!r} was used for another edit, {first.edit_id}."
        raise AlreadyExists(message, code="request_id_reused")
    return edit_record(first, name, active=is_active(session, first.edit_id))


def _held(session: Session, claim: Claim) -> tuple[CodebookRow, EditRow]:
    """Return the locked rows of a claim that still holds its edit."""
    codebook = find_codebook(session, claim.edit.codebook, lock=True)
    query = select(EditRow).where(EditRow.codebook_id == codebook.id, EditRow.edit_id == claim.edit.edit_id)
    row = session.scalars(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"There is no edit {claim.edit.edit_id}.", code="unknown_edit")
    held = row.finished_at is None and row.attempt == claim.attempt and row.worker == claim.worker
    if not held:
        message = (
            f"Attempt {claim.attempt} of {claim.worker!r} no longer holds edit {row.edit_id}: "
            f"it is {row.state.value} at attempt {row.attempt}."
        )
        raise FailedPrecondition(message, code="claim_lost")
    return codebook, row


def _claim(row: EditRow, name: CodebookName, worker: str) -> Claim:
    assert row.lease_expires_at is not None, "a claimed edit has a lease"
    record = edit_record(row, name, active=False)
    return Claim(edit=record, worker=worker, attempt=row.attempt, lease_expires_at=row.lease_expires_at)


def _hand_out(row: EditRow, worker: str, now: datetime, lease_s: float) -> None:
    row.state = EditState.TRAINING
    row.attempt += 1
    row.worker = worker
    _lease(row, now, lease_s)


def _give_up(row: EditRow, now: datetime) -> None:
    # Such an edit takes its worker down with it, and it would block its codebook for ever.
    reason = f"the edit was taken {row.attempt} times and never finished; its last worker was {row.worker!r}."
    _fail(row, code="attempts_exhausted", reason=reason, now=now)


def _fail(row: EditRow, *, code: str, reason: str, now: datetime) -> None:
    row.reason_code = code
    row.reason = reason
    _finish(row, EditState.FAILED, now)


def _lease(row: EditRow, now: datetime, lease_s: float) -> None:
    row.lease_expires_at = now + timedelta(seconds=lease_s)
    row.updated_at = now


def _require_base(codebook: CodebookRow, claim: Claim, publication: Publication) -> None:
    if codebook.revision != publication.base_revision:
        message = (
            f"{claim.edit.codebook} moved from revision {publication.base_revision} to {codebook.revision} "
            f"while edit {claim.edit.edit_id} was trained; verify it again."
        )
        raise FailedPrecondition(message, code="revision_moved")


def _named_edits(publication: Publication) -> tuple[EditId, ...]:
    alias = () if publication.alias_of is None else (publication.alias_of,)
    return publication.supersedes + publication.overlaps + alias


def _publish_row(row: EditRow, codebook: CodebookRow, now: datetime) -> None:
    row.published_revision = codebook.revision
    row.published_at = now
    _finish(row, EditState.PUBLISHED, now)


def _finish(row: EditRow, state: EditState, now: datetime) -> None:
    row.state = state
    row.lease_expires_at = None
    row.updated_at = now
    row.finished_at = now
