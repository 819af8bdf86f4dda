"""Quotas in SQL."""

from collections.abc import Mapping
from dataclasses import asdict

from horen_vllm.errors import NotFound
from horen_vllm.ids import TenantId
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import QuotaRecord, RequestKey, UsageRecord
from horen_vllm.registry.quotas import quota_record, usage_of
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.schema import QuotaRow, TenantRow
from horen_vllm.registry.sql_store import SqlStore

LIMITS = ("max_codebooks", "max_entries", "max_pending", "edits_per_minute")
"""Fields of `QuotaRecord` that can be set."""


class SqlQuotaStore(SqlStore):
    """`ports.QuotaStore` on SQL."""

    def get_quota(self, tenant: TenantId) -> tuple[QuotaRecord, UsageRecord]:
        """Return what a tenant may use and what it uses; NotFound ``unknown_tenant``."""
        with self._database.read() as session:
            _require_tenant(session.get(TenantRow, tenant), tenant)
            return quota_record(tenant, session.get(QuotaRow, tenant)), usage_of(session, tenant)

    def update_quota(
        self,
        tenant: TenantId,
        limits: Mapping[str, int | None],
        *,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> tuple[QuotaRecord, UsageRecord]:
        """Set those limits of a tenant that are named; None lifts one.

        Raises
        ------
        NotFound
            ``unknown_tenant``.
        AlreadyExists
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "update_quota") as session:
            now = self._clock()
            again = replayed(session, request, now) is not None
            # Locked, so that two who set different limits for the first time do not make two rows.
            _require_tenant(session.get(TenantRow, tenant, with_for_update=True), tenant)
            row = session.get(QuotaRow, tenant, with_for_update=True)
            if not again:
                before = asdict(quota_record(tenant, row))
                after = {name: limits.get(name, before[name]) for name in LIMITS}
                if validate_only:
                    return QuotaRecord(tenant=tenant, **after), usage_of(session, tenant)
                row = session.merge(QuotaRow(tenant=tenant, **after, updated_at=now))
                remember(session, request, tenant, now)
                detail = {name: after[name] for name in limits}
                record(
                    session, "UpdateQuota", tenant=tenant, resource=f"tenants/{tenant}/quota", now=now, detail=detail
                )
                session.flush()
            return quota_record(tenant, row), usage_of(session, tenant)


def _require_tenant(row: TenantRow | None, tenant: TenantId) -> None:
    if row is None:
        raise NotFound(f"There is no tenant {tenant}.", code="unknown_tenant")
