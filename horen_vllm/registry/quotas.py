"""Quotas: what a tenant may still use, decided in the transaction that uses it."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from horen_vllm.errors import ResourceExhausted
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import QuotaRecord, UsageRecord
from horen_vllm.registry.schema import AuditRow, CodebookRow, EditRow, QuotaRow

SUBMITTED: Final = "SubmitEdit"
"""Method of the audit log's events that count as submissions."""
WINDOW: Final = timedelta(seconds=60)
"""What `edits_per_minute` is counted over."""
_DRAIN_S: Final = 5.0
"""Seconds after which a tenant with too many unfinished edits may look again: some are made by then."""


class Allowance:
    """What one tenant may still submit in this transaction; it locks the quota, so nobody else counts meanwhile.

    Parameters
    ----------
    session
        Of a writing transaction.
    quota
        The tenant's limits, locked.
    wanted
        Most submissions of the tenant in this transaction.
    now
        The present time.
    """

    def __init__(self, session: Session, quota: QuotaRow, wanted: int, now: datetime) -> None:
        self._quota = quota
        self._usage = usage_of(session, TenantId(quota.tenant))
        self._taken = 0
        self._now = now
        limit = quota.edits_per_minute
        self._first = 0 if limit is None else max(0, limit - wanted)
        self._times = [] if limit is None else _submitted(session, quota.tenant, self._first, limit - self._first)

    def take(self) -> None:
        """Count one submission.

        Raises
        ------
        ResourceExhausted
            ``quota_exceeded``; it is not counted then.
        """
        quota, tenant = self._quota, self._quota.tenant
        pending = self._usage.pending + self._taken + 1
        _require(tenant, pending, quota.max_pending, "unfinished edits", _DRAIN_S)
        _require(tenant, self._usage.entries + pending, quota.max_entries, "entries and unfinished edits")
        if quota.edits_per_minute is not None:
            self._check_rate(quota.edits_per_minute)
        self._taken += 1

    def _check_rate(self, limit: int) -> None:
        """Refuse a submission if the one that came `limit` places before it is within the window still."""
        wait = WINDOW
        if self._taken < limit:
            place = limit - 1 - self._taken - self._first
            wait = self._times[place] + WINDOW - self._now if place < len(self._times) else timedelta(0)
        if wait > timedelta(0):
            raise _exceeded(tenant=self._quota.tenant, limit=limit, what="edits in 60 s", wait_s=wait.total_seconds())


def lock_quotas(session: Session, tenants: Collection[str]) -> dict[str, QuotaRow]:
    """Return the limits of those of `tenants` that have any, locked, in one order for everybody."""
    query = select(QuotaRow).where(QuotaRow.tenant.in_(tenants)).order_by(QuotaRow.tenant).with_for_update()
    return {row.tenant: row for row in session.scalars(query)}


def require_codebook_quota(session: Session, tenant: TenantId) -> None:
    """Check that a tenant may have one more codebook; call it before the codebook is added.

    Raises
    ------
    ResourceExhausted
        ``quota_exceeded``.
    """
    quota = lock_quotas(session, (tenant,)).get(tenant)
    if quota is not None:
        _require(tenant, usage_of(session, tenant).codebooks + 1, quota.max_codebooks, "codebooks")


def require_entry_quota(session: Session, tenant: TenantId, more: int) -> None:
    """Check that a tenant may have `more` more entries; call it before the codebook counts them.

    Raises
    ------
    ResourceExhausted
        ``quota_exceeded``.
    """
    quota = lock_quotas(session, (tenant,)).get(tenant) if more else None
    if quota is not None:
        usage = usage_of(session, tenant)
        _require(tenant, usage.entries + usage.pending + more, quota.max_entries, "entries and unfinished edits")


def usage_of(session: Session, tenant: TenantId) -> UsageRecord:
    """Return what a tenant uses; deleted codebooks do not count."""
    there = (CodebookRow.tenant == tenant, CodebookRow.deleted_at.is_(None))
    unfinished = (
        select(func.count())
        .select_from(EditRow)
        .join(CodebookRow, CodebookRow.id == EditRow.codebook_id)
        .where(*there, EditRow.finished_at.is_(None))
    )
    # One statement sees one moment: an edit that is published meanwhile counts as one or as the other.
    codebooks, entries, pending = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(CodebookRow.entry_count), 0),
            unfinished.correlate(None).scalar_subquery(),
        ).where(*there)
    ).one()
    return UsageRecord(codebooks=codebooks, entries=int(entries), pending=pending)


def quota_record(tenant: TenantId, row: QuotaRow | None) -> QuotaRecord:
    """Return the limits of a tenant; without a row it has none."""
    if row is None:
        return QuotaRecord(tenant=tenant)
    return QuotaRecord(
        tenant=tenant,
        max_codebooks=row.max_codebooks,
        max_entries=row.max_entries,
        max_pending=row.max_pending,
        edits_per_minute=row.edits_per_minute,
    )


def _submitted(session: Session, tenant: str, skipped: int, count: int) -> Sequence[datetime]:
    """Return when a tenant submitted edits, newest first, without the newest `skipped`; reads no more than it must."""
    query = (
        select(AuditRow.created_at)
        .where(AuditRow.tenant == tenant, AuditRow.method == SUBMITTED)
        .order_by(AuditRow.number.desc())
        .offset(skipped)
        .limit(count)
    )
    return session.scalars(query).all()


def _require(tenant: str, used: int, limit: int | None, what: str, wait_s: float | None = None) -> None:
    if limit is not None and used > limit:
        raise _exceeded(tenant=tenant, limit=limit, what=what, wait_s=wait_s)


def _exceeded(*, tenant: str, limit: int, what: str, wait_s: float | None) -> ResourceExhausted:
    message = f"Tenant {tenant} may have {limit} {what}; that is used up."
    return ResourceExhausted(message, code="quota_exceeded", retry_after_s=wait_s, subject=f"tenants/{tenant}")
