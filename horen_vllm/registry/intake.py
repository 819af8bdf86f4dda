"""Submissions on their way into the database: many in one transaction, each with an outcome of its own."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, select, tuple_
from sqlalchemy.orm import Session

from horen_vllm.errors import HorenError, NotFound
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.audit_log import event_values
from horen_vllm.registry.edit_rows import edit_records, edits_with_state
from horen_vllm.registry.models import EditRecord, EditState, RequestKey
from horen_vllm.registry.quotas import SUBMITTED, Allowance, lock_quotas
from horen_vllm.registry.records import codebook_name, edit_record
from horen_vllm.registry.requests import known_requests, remember_all, require_same
from horen_vllm.registry.schema import AuditRow, CodebookRow, EditRow, RequestRow
from horen_vllm.registry.submission import Submission

Outcome = EditRecord | HorenError
_NO_ID: Final = EditId("")
"""Of an edit that is checked only."""


class Intake:
    """Takes submissions in, in order.

    Everything that they have in common is read once and locked in one order: request ids, codebooks, quotas. So does
    whoever else locks both a codebook and a quota.

    Parameters
    ----------
    session
        Of a writing transaction.
    submissions
        What is to be stored.
    now
        The present time.
    """

    def __init__(self, session: Session, submissions: Sequence[Submission], now: datetime) -> None:
        self._session = session
        self._submissions = submissions
        self._now = now
        keys = [it.request for it in submissions if it.request is not None]
        self._known = known_requests(session, keys, now)
        wanted = Counter(str(it.codebook.tenant) for it in submissions)
        self._codebooks = _lock_codebooks(session, {it.codebook for it in submissions})
        quotas = lock_quotas(session, wanted)
        self._allowances = {tenant: Allowance(session, quota, wanted[tenant], now) for tenant, quota in quotas.items()}
        self._first = self._read_first()
        self._rows: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._made: list[tuple[RequestKey, str]] = []

    def check(self) -> tuple[Outcome, ...]:
        """Return what `store` would return, with edits that have no id; nothing is stored."""
        return tuple(self._outcome(it, self._draft) for it in self._submissions)

    def store(self) -> tuple[Outcome, ...]:
        """Store the edits and return them; or, of each that is refused, why, which touches no other."""
        outcomes = tuple(self._outcome(it, self._store) for it in self._submissions)
        if self._rows:
            self._session.flush()
            self._session.execute(insert(EditRow), self._rows)
            self._session.execute(insert(AuditRow), self._events)
            remember_all(self._session, self._made, self._now)
        return outcomes

    def _outcome(self, submission: Submission, make: Callable[[Submission, CodebookRow], EditRecord]) -> Outcome:
        try:
            first = self._repeated(submission.request)
            if first is not None:
                return first
            codebook = self._codebooks.get(submission.codebook)
            if codebook is None:
                raise NotFound(f"There is no codebook {submission.codebook}.", code="unknown_codebook")
            allowance = self._allowances.get(codebook.tenant)
            if allowance is not None:
                allowance.take()
            return make(submission, codebook)
        except HorenError as error:
            return error

    def _repeated(self, request: RequestKey | None) -> EditRecord | None:
        row = None if request is None else self._known.get((request.tenant or "", request.request_id))
        return None if row is None or request is None else self._first[require_same(row, request)]

    def _draft(self, submission: Submission, codebook: CodebookRow) -> EditRecord:
        values = _values(submission, codebook, _NO_ID, self._now) | {"sequence": codebook.last_sequence + 1}
        return edit_record(EditRow(**values), submission.codebook, active=False)

    def _store(self, submission: Submission, codebook: CodebookRow) -> EditRecord:
        codebook.last_sequence += 1
        values = _values(submission, codebook, new_edit_id(), self._now)
        record = edit_record(EditRow(**values), submission.codebook, active=False)
        self._rows.append(values)
        self._events.append(_event(submission, record, self._now))
        request = submission.request
        if request is not None:
            self._made.append((request, record.edit_id))
            # The same request may come again in this very batch.
            self._known[request.tenant or "", request.request_id] = RequestRow(
                method=request.method, digest=request.digest, reference=record.edit_id
            )
            self._first[record.edit_id] = record
        return record

    def _read_first(self) -> dict[str, EditRecord]:
        edits = {row.reference for row in self._known.values() if row.method == SUBMITTED}
        query = edits_with_state().where(EditRow.edit_id.in_(edits))
        found = edit_records(self._session, self._session.execute(query)) if edits else ()
        return {record.edit_id: record for record in found}


def _lock_codebooks(session: Session, names: Collection[CodebookName]) -> dict[CodebookName, CodebookRow]:
    named = tuple_(CodebookRow.tenant, CodebookRow.name).in_([(it.tenant, it.codebook) for it in names])
    query = select(CodebookRow).where(named, CodebookRow.deleted_at.is_(None)).order_by(CodebookRow.id)
    return {codebook_name(row): row for row in session.scalars(query.with_for_update())}


def _values(submission: Submission, codebook: CodebookRow, edit_id: EditId, now: datetime) -> dict[str, Any]:
    spec, request, ttl_s = submission.spec, submission.request, submission.ttl_s
    return {
        "edit_id": edit_id,
        "origin": edit_id,
        "codebook_id": codebook.id,
        "sequence": codebook.last_sequence,
        "request_id": None if request is None else request.request_id,
        "prompt": spec.prompt,
        "target": spec.target,
        "subject": spec.subject,
        "aliases": spec.aliases,
        "paraphrases": spec.paraphrases,
        "must_not_fire": spec.must_not_fire,
        "state": EditState.COMMITTED,
        "attempt": 0,
        "supersedes": (),
        "overlaps": (),
        "created_at": now,
        "updated_at": now,
        "expires_at": None if ttl_s is None else now + timedelta(seconds=ttl_s),
    }


def _event(submission: Submission, record: EditRecord, now: datetime) -> dict[str, Any]:
    return event_values(
        SUBMITTED,
        tenant=submission.codebook.tenant,
        resource=f"{submission.codebook}/edits/{record.edit_id}",
        now=now,
        detail={"sequence": record.sequence},
        caller=submission.caller,
    )
