"""Tenants and API keys in SQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import exc, select
from sqlalchemy.orm import Session

from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import TenantId
from horen_vllm.registry.audit import Caller
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import KeyRecord, KeyScope, RequestKey, TenantRecord
from horen_vllm.registry.records import key_record, tenant_record
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.schema import ApiKeyRow, TenantRow
from horen_vllm.registry.sql_store import SqlStore

_TIME: Final = Caller(actor="ttl")


class SqlTenantStore(SqlStore):
    """`ports.TenantStore` on SQL."""

    def create_tenant(
        self, tenant: TenantId, *, request: RequestKey | None = None, validate_only: bool = False
    ) -> TenantRecord:
        """Make a tenant; a repeated `request` returns it again.

        Raises
        ------
        AlreadyExists
            ``tenant_exists``; ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "create_tenant") as session:
            now = self._clock()
            if replayed(session, request, now) is not None:
                return tenant_record(_find_tenant(session, tenant))
            row = TenantRow(name=tenant, created_at=now)
            session.add(row)
            try:
                session.flush()
            except exc.IntegrityError as error:
                raise AlreadyExists(f"There is a tenant {tenant} already.", code="tenant_exists") from error
            record(session, "CreateTenant", tenant=tenant, resource=f"tenants/{tenant}", now=now)
            remember(session, request, tenant, now)
            made = tenant_record(row)
            if validate_only:
                session.rollback()
            return made

    def get_tenant(self, tenant: TenantId) -> TenantRecord:
        """Return a tenant; NotFound ``unknown_tenant``."""
        with self._database.read() as session:
            return tenant_record(_find_tenant(session, tenant))

    def list_tenants(self, *, after: str = "", limit: int = 1000) -> Sequence[TenantRecord]:
        """Return at most `limit` tenants with a name greater than `after`, by name."""
        query = select(TenantRow).where(TenantRow.name > after).order_by(TenantRow.name).limit(limit)
        with self._database.read() as session:
            return [tenant_record(row) for row in session.scalars(query)]

    def add_key(
        self,
        key_id: str,
        digest: str,
        *,
        tenant: TenantId | None,
        scope: KeyScope,
        lifetime_s: float | None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> KeyRecord:
        """Store the digest of a key of `tenant` (None: of the operator) that lives `lifetime_s` seconds (None: ever).

        Raises
        ------
        NotFound
            ``unknown_tenant``.
        AlreadyExists
            ``key_already_made``, for a repeated `request`: its key is named, and its secret is nobody's to tell;
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "add_key") as session:
            now = self._clock()
            made = replayed(session, request, now)
            if made is not None:
                message = f"This request made the key keys/{made} already; secrets are told once: make another key."
                raise AlreadyExists(message, code="key_already_made")
            if tenant is not None:
                _find_tenant(session, tenant)
            row = ApiKeyRow(
                key_id=key_id,
                tenant=tenant,
                scope=scope,
                digest=digest,
                created_at=now,
                expires_at=None if lifetime_s is None else now + timedelta(seconds=lifetime_s),
            )
            session.add(row)
            session.flush()
            detail = {"scope": scope.value}
            record(session, "CreateKey", tenant=tenant, resource=f"keys/{key_id}", now=now, detail=detail)
            remember(session, request, key_id, now)
            answer = key_record(row)
            if validate_only:
                session.rollback()
            return answer

    def list_keys(self, tenant: TenantId | None = None, *, after: str = "", limit: int = 1000) -> Sequence[KeyRecord]:
        """Return at most `limit` keys (of `tenant`, when given) with an id greater than `after`, by id."""
        query = select(ApiKeyRow).where(ApiKeyRow.key_id > after).order_by(ApiKeyRow.key_id).limit(limit)
        if tenant is not None:
            query = query.where(ApiKeyRow.tenant == tenant)
        with self._database.read() as session:
            return [key_record(row) for row in session.scalars(query)]

    def revoke_key(self, key_id: str, *, request: RequestKey | None = None, validate_only: bool = False) -> KeyRecord:
        """Make a key worthless from now on; once revoked, the first time stays.

        Raises
        ------
        NotFound
            ``unknown_key``.
        AlreadyExists
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "revoke_key") as session:
            now = self._clock()
            done = replayed(session, request, now) is not None
            row = session.get(ApiKeyRow, key_id, with_for_update=True)
            if row is None:
                raise NotFound(f"There is no key {key_id}.", code="unknown_key")
            if done:
                return key_record(row)
            if row.revoked_at is None:
                row.revoked_at = now
                record(session, "RevokeKey", tenant=row.tenant, resource=f"keys/{key_id}", now=now)
            remember(session, request, key_id, now)
            answer = key_record(row)
            if validate_only:
                session.rollback()
            return answer

    def resolve_key(self, digest: str) -> KeyRecord:
        """Return the key with this digest; NotFound ``unknown_key``, also for one that has expired or was revoked.

        A key that was refused since it has expired stays refused, also when the clock is set back.
        """
        query = select(ApiKeyRow).where(ApiKeyRow.digest == digest, ApiKeyRow.revoked_at.is_(None))
        with self._database.read() as session:
            row = session.scalars(query).one_or_none()
            key = None if row is None else key_record(row)
        if key is not None and (key.expires_at is None or key.expires_at > self._clock()):
            return key
        if key is not None:
            self._end_key(key.key_id)
        raise NotFound("There is no such key, or it is no longer valid.", code="unknown_key")

    def _end_key(self, key_id: str) -> None:
        with self._database.write("end_key") as session:
            row = session.get_one(ApiKeyRow, key_id, with_for_update=True)
            if row.revoked_at is None:
                row.revoked_at = row.expires_at
                now = self._clock()
                record(session, "end_key", tenant=row.tenant, resource=f"keys/{key_id}", now=now, caller=_TIME)


def _find_tenant(session: Session, tenant: TenantId) -> TenantRow:
    row = session.get(TenantRow, tenant)
    if row is None:
        raise NotFound(f"There is no tenant {tenant}.", code="unknown_tenant")
    return row
