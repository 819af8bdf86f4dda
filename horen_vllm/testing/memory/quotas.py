"""Quotas in memory."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from horen_vllm.errors import ResourceExhausted
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import QuotaRecord, RequestKey, UsageRecord
from horen_vllm.testing.memory.changes import SUBMITTED, record, remember, replayed
from horen_vllm.testing.memory.state import MemoryStore, State
from horen_vllm.testing.memory.tenants import find_tenant

_WINDOW: Final = timedelta(seconds=60)
_DRAIN_S: Final = 5.0


class MemoryQuotas(MemoryStore):
    """`ports.QuotaStore` in memory."""

    def get_quota(self, tenant: TenantId) -> tuple[QuotaRecord, UsageRecord]:
        """Return what a tenant may use and what it uses; NotFound ``unknown_tenant``."""
        state = self._storage.now
        find_tenant(state, tenant)
        return quota_of(state, tenant), usage_of(state, tenant)

    def update_quota(
        self,
        tenant: TenantId,
        limits: Mapping[str, int | None],
        *,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> tuple[QuotaRecord, UsageRecord]:
        """Set those limits that are named; None lifts one. NotFound ``unknown_tenant``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            again = replayed(state, request, now) is not None
            find_tenant(state, tenant)
            if not again:
                state.quotas[tenant] = QuotaRecord(**{**asdict(quota_of(state, tenant)), **limits})
                remember(state, request, tenant, now)
                resource = f"tenants/{tenant}/quota"
                record(state, "UpdateQuota", tenant=tenant, resource=resource, now=now, detail=limits)
            return quota_of(state, tenant), usage_of(state, tenant)


def quota_of(state: State, tenant: TenantId) -> QuotaRecord:
    """Return the limits of a tenant; none, unless some were set."""
    return state.quotas.get(tenant, QuotaRecord(tenant=tenant))


def usage_of(state: State, tenant: TenantId) -> UsageRecord:
    """Return what a tenant uses; deleted codebooks do not count."""
    books = [it.record for it in state.books.values() if it.record.name.tenant == tenant]
    there = [it for it in books if it.deleted_at is None]
    pending = sum(len(state.queue(it.name)) for it in there)
    return UsageRecord(codebooks=len(there), entries=sum(it.entry_count for it in there), pending=pending)


def require_submission(state: State, tenant: TenantId, now: datetime) -> None:
    """Check that a tenant may submit one more edit; ResourceExhausted ``quota_exceeded``."""
    quota, usage = quota_of(state, tenant), usage_of(state, tenant)
    pending = usage.pending + 1
    _require(tenant, pending, quota.max_pending, "unfinished edits", _DRAIN_S)
    _require(tenant, usage.entries + pending, quota.max_entries, "entries and unfinished edits")
    if quota.edits_per_minute is not None:
        _require_rate(state, tenant, quota.edits_per_minute, now)


def require_codebook(state: State, tenant: TenantId) -> None:
    """Check that a tenant may have one more codebook; ResourceExhausted ``quota_exceeded``."""
    _require(tenant, usage_of(state, tenant).codebooks + 1, quota_of(state, tenant).max_codebooks, "codebooks")


def require_entries(state: State, tenant: TenantId, more: int) -> None:
    """Check that a tenant may have `more` more entries; ResourceExhausted ``quota_exceeded``."""
    usage, limit = usage_of(state, tenant), quota_of(state, tenant).max_entries
    if more:
        _require(tenant, usage.entries + usage.pending + more, limit, "entries and unfinished edits")


def _require_rate(state: State, tenant: TenantId, limit: int, now: datetime) -> None:
    times = [it.created_at for it in state.audit if it.method == SUBMITTED and it.tenant == tenant]
    # The one `limit` places before must have left the window.
    wait = times[-limit] + _WINDOW - now if 0 < limit <= len(times) else timedelta(0)
    wait = wait if limit else _WINDOW
    if wait > timedelta(0):
        raise _exceeded(tenant=tenant, limit=limit, what="edits in 60 s", wait_s=wait.total_seconds())


def _require(tenant: TenantId, used: int, limit: int | None, what: str, wait_s: float | None = None) -> None:
    if limit is not None and used > limit:
        raise _exceeded(tenant=tenant, limit=limit, what=what, wait_s=wait_s)


def _exceeded(*, tenant: TenantId, limit: int, what: str, wait_s: float | None) -> ResourceExhausted:
    message = f"Tenant {tenant} may have {limit} {what}; that is used up."
    return ResourceExhausted(message, code="quota_exceeded", retry_after_s=wait_s)
