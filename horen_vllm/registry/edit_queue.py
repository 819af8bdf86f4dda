"""The queue of edits in SQL: what workers take, and what they report."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import EditId
from horen_vllm.registry.attempt_log import (
    FAILED,
    GIVEN_BACK,
    LEASE_EXPIRED,
    PUBLISHED,
    begin_attempts,
    end_attempts,
)
from horen_vllm.registry.audit import worker_caller
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.claims import find_held, lock_codebook, require_held
from horen_vllm.registry.edit_retirement import SqlEditRetirement
from horen_vllm.registry.edit_rows import claimable, is_active, locked_claimable, queue_front, require_edits
from horen_vllm.registry.edit_submissions import SqlEditSubmissions
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditRecord, EditState, Publication
from horen_vllm.registry.publishing import finish_row, mark_published, publish_all, require_revision
from horen_vllm.registry.records import codebook_name, edit_record
from horen_vllm.registry.schema import CodebookRow, EditRow


class SqlEditQueue(SqlEditSubmissions, SqlEditRetirement):
    """`ports.EditQueue` on SQL."""

    def claim(self, worker: str, *, lease_s: float, fingerprint: str, limit: int = 1) -> tuple[Claim, ...]:
        """Take at most `limit` edits from the head of one codebook's queue, in order, for `lease_s` seconds.

        Returns nothing when there is nothing to do. An edit that was claimed before is handed out alone, and a codebook
        whose oldest unfinished edit is held hands out nothing, so it has one worker at a time. Edits that have used up
        their attempts are closed as FAILED, ``attempts_exhausted``, on the way.
        """
        if self._database.has_one_writer and not self._can_claim(fingerprint):
            return ()  # a worker that waits would hold up all who write, ten times a second
        with self._database.write("claim") as session:
            now = self._clock()
            while (found := session.execute(locked_claimable(fingerprint, now)).first()) is not None:
                head, codebook = found
                if head.attempt < MAX_ATTEMPTS:
                    rows = (head,) if head.attempt else _front(session, codebook, limit)
                    for row in rows:
                        _hand_out(row, worker, now, lease_s)
                    begin_attempts(session, rows, worker, now)
                    return tuple(_claim(row, edit_record(row, codebook_name(codebook), active=False)) for row in rows)
                _give_up(head, now)
                end_attempts(session, (head.edit_id,), LEASE_EXPIRED, now)
                _note(session, codebook, head, "fail", now)
            return ()

    def _can_claim(self, fingerprint: str) -> bool:
        with self._database.read() as session:
            return session.execute(claimable(fingerprint, self._clock())).first() is not None

    def extend(self, claims: Sequence[Claim], *, lease_s: float) -> tuple[Claim, ...]:
        """Move the leases' ends to `lease_s` seconds from now; return the claims that still hold, in their order.

        Raises
        ------
        InvalidArgument
            ``mixed_codebooks``, when the claims are of several codebooks.
        """
        if not claims:
            return ()
        with self._database.write("extend") as session:
            now = self._clock()
            held = find_held(session, lock_codebook(session, claims), claims)
            rows = [(held[claim.edit.edit_id], claim.edit.codebook) for claim in claims if claim.edit.edit_id in held]
            for row, _ in rows:
                _lease(row, now, lease_s)
            return tuple(_claim(row, edit_record(row, name, active=False)) for row, name in rows)

    def trained(self, claims: Sequence[Claim]) -> None:
        """Mark the edits as TRAINED, however often, all or none; the claims and their leases stay as they are.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``.
        NotFound
            ``unknown_edit``, when a claim is of no edit of its codebook.
        InvalidArgument
            ``mixed_codebooks``, when the claims are of several codebooks.
        """
        if not claims:
            return
        with self._database.write("trained") as session:
            now = self._clock()
            for row in require_held(session, lock_codebook(session, claims), claims):
                row.state = EditState.TRAINED
                row.updated_at = now

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Make the edits of the claims that still hold COMMITTED again, an attempt less; their leases stay.

        Raises
        ------
        InvalidArgument
            ``mixed_codebooks``, when the claims are of several codebooks.
        """
        if not claims:
            return
        with self._database.write("give_back") as session:
            now = self._clock()
            held = find_held(session, lock_codebook(session, claims), claims)
            for row in held.values():
                row.state = EditState.COMMITTED
                row.attempt -= 1
                row.worker = None  # the number is an earlier claim's again, maybe of a worker of the same name
                row.updated_at = now
            end_attempts(session, held, GIVEN_BACK, now)

    def publish(self, batch: Sequence[tuple[Claim, Publication]]) -> tuple[EditRecord, ...]:
        """Make one revision an edit, in order: with its new entry, without the superseded ones; all or none of them.

        Returns
        -------
        tuple[EditRecord, ...]
            The edits as they are after the last one was published: one that a later one of the batch superseded is not
            active.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``; ``revision_moved``, when the codebook is not at the first `base_revision`, or another one is
            not the revision that the publication before it makes.
        NotFound
            ``unknown_edit``, when a claim or a publication names an edit that the codebook lacks.
        InvalidArgument
            ``mixed_codebooks``, when the claims are of several codebooks; ``invalid_parameter``, for a threshold that
            is no cosine.
        """
        if not batch:
            return ()
        claims = [claim for claim, _ in batch]
        with self._database.write("publish") as session:
            codebook = lock_codebook(session, claims)
            rows = require_held(session, codebook, claims)
            publications = [publication for _, publication in batch]
            now = self._clock()
            active = publish_all(session, codebook, list(zip(rows, publications, strict=True)), now)
            end_attempts(session, [row.edit_id for row in rows], PUBLISHED, now)
            for row in rows:
                _note(session, codebook, row, "publish", now)
            name = codebook_name(codebook)
            return tuple(edit_record(row, name, active=row.edit_id in active) for row in rows)

    def finish_same(self, claim: Claim, same_as: EditId) -> EditRecord:
        """Close the edit as already there: PUBLISHED at the current revision, without an entry of its own.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``; ``revision_moved``, when the entry of `same_as` has left the codebook meanwhile.
        NotFound
            ``unknown_edit``, when the codebook has no edit `same_as`.
        """
        with self._database.write("finish_same") as session:
            codebook = lock_codebook(session, (claim,))
            (row,) = require_held(session, codebook, (claim,))
            require_edits(session, codebook, (same_as,))
            if not is_active(session, same_as):
                message = f"The entry of edit {same_as} is not in revision {codebook.revision} any more."
                raise FailedPrecondition(message, code="revision_moved")
            now = self._clock()
            # Whoever has the entry now may have it from another edit, which was the first to say so.
            row.same_as = session.get_one(EditRow, same_as).same_as or same_as
            mark_published(row, codebook.revision, now)
            end_attempts(session, (row.edit_id,), PUBLISHED, now)
            _note(session, codebook, row, "publish", now)
            return edit_record(row, claim.edit.codebook, active=False, answered_by=same_as)

    def fail(self, claim: Claim, code: str, reason: str, *, base_revision: int | None = None) -> EditRecord:
        """Close the edit as FAILED with its reason.

        Raises
        ------
        FailedPrecondition
            ``claim_lost``; ``revision_moved``, when the codebook is not at `base_revision` (None: at whichever).
        """
        with self._database.write("fail") as session:
            codebook = lock_codebook(session, (claim,))
            (row,) = require_held(session, codebook, (claim,))
            if base_revision is not None:
                require_revision(codebook, base_revision)
            now = self._clock()
            _fail(row, code=code, reason=reason, now=now)
            end_attempts(session, (row.edit_id,), FAILED, now)
            _note(session, codebook, row, "fail", now)
            return edit_record(row, claim.edit.codebook, active=False)


def _front(session: Session, codebook: CodebookRow, limit: int) -> Sequence[EditRow]:
    # Only fronts of the queue are ever claimed: behind a head that nobody has claimed, nothing was claimed either.
    return session.scalars(queue_front(codebook, limit)).all()


def _claim(row: EditRow, record: EditRecord) -> Claim:
    assert row.lease_expires_at is not None, "a claimed edit has a lease"
    assert row.worker is not None, "a claimed edit has a worker"
    return Claim(edit=record, worker=row.worker, attempt=row.attempt, lease_expires_at=row.lease_expires_at)


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
    finish_row(row, EditState.FAILED, now)


def _note(session: Session, codebook: CodebookRow, row: EditRow, act: str, now: datetime) -> None:
    detail = {"revision": row.published_revision} if row.reason_code is None else {"code": row.reason_code}
    resource = f"{codebook_name(codebook)}/edits/{row.edit_id}"
    caller = worker_caller(row.worker or "")
    record(session, act, tenant=codebook.tenant, resource=resource, now=now, detail=detail, caller=caller)


def _lease(row: EditRow, now: datetime, lease_s: float) -> None:
    row.lease_expires_at = now + timedelta(seconds=lease_s)
    row.updated_at = now
