"""The client's calls about tenants, their quotas and API keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from horen_vllm.control import convert, convert_admin
from horen_vllm.control._pb.horen.v1 import admin_pb2, replicas_pb2
from horen_vllm.control.convert_changes import event_from_proto
from horen_vllm.control.messages import CreatedKey, QuotaView
from horen_vllm.control.names import key_path, quota_path, tenant_path
from horen_vllm.control.transport import Transport, fresh
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import AuditRecord, KeyRecord, KeyScope, TenantRecord


class AdminCalls:
    """Part of `HorenClient`: tenants are named by `TenantId` or plain name, keys by `KeyRecord` or id."""

    _transport: Transport
    _admin: Any
    _replicas: Any

    def create_tenant(
        self, tenant: TenantId | str, *, request_id: str | None = None, validate_only: bool = False
    ) -> TenantRecord:
        """Make a tenant.

        Parameters
        ----------
        request_id
            The same id again within a day returns the tenant again; a fresh one when not given.
        validate_only
            Everything is checked and nothing made.

        Raises
        ------
        AlreadyExists
            ``tenant_exists``; ``request_id_reused``.
        InvalidArgument
            ``invalid_name``.
        """
        request = convert.message_of(
            admin_pb2.CreateTenantRequest,
            tenant_id=tenant,
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        return self._transport.call_again(self._admin.CreateTenant, request, convert_admin.tenant_from_proto)

    def list_tenants(self, *, page_size: int = 100) -> Iterator[TenantRecord]:
        """Yield the tenants by name, fetching a page at a time."""
        request = convert.message_of(admin_pb2.ListTenantsRequest, page_size=page_size)
        for page in self._transport.pages(self._admin.ListTenants, request):
            yield from map(convert_admin.tenant_from_proto, page.tenants)

    def get_quota(self, tenant: TenantId | str) -> QuotaView:
        """Return what a tenant may use and what it uses; NotFound ``unknown_tenant``."""
        request = convert.message_of(admin_pb2.GetQuotaRequest, name=quota_path(tenant))
        return self._transport.call_again(self._admin.GetQuota, request, convert_admin.quota_from_proto)

    def update_quota(
        self,
        tenant: TenantId | str,
        limits: Mapping[str, int | None],
        *,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> QuotaView:
        """Change what a tenant may use.

        Parameters
        ----------
        limits
            Those to change, by the names of `QuotaRecord`; None lifts one.
        request_id, validate_only
            As for `create_tenant`.

        Raises
        ------
        NotFound
            ``unknown_tenant``.
        InvalidArgument
            ``invalid_field_mask``, for a limit that there is not; ``invalid_quota``, below 0.
        """
        request = convert.message_of(
            admin_pb2.UpdateQuotaRequest, request_id=fresh(request_id), validate_only=validate_only
        )
        request.quota.name = quota_path(tenant)
        request.update_mask.paths.extend(limits)
        for name, limit in limits.items():
            if limit is not None and name in convert_admin.LIMITS:
                setattr(request.quota, name, limit)
        return self._transport.call_again(self._admin.UpdateQuota, request, convert_admin.quota_from_proto)

    def create_key(
        self,
        tenant: TenantId | str | None,
        *,
        scope: KeyScope = KeyScope.READ,
        lifetime_s: float | None = None,
    ) -> CreatedKey:
        """Make a key and return it with its secret, which nobody can read again; never repeated by itself.

        Parameters
        ----------
        tenant
            Whose data the key opens; None for `KeyScope.ADMIN`.
        lifetime_s
            Seconds until it expires, at most ten years; None: it lives until it is revoked.

        Raises
        ------
        NotFound
            ``unknown_tenant``.
        InvalidArgument
            ``invalid_key_scope``, ``invalid_lifetime`` or ``invalid_name``.
        """
        request = convert.message_of(
            admin_pb2.CreateKeyRequest,
            tenant=tenant_path(tenant) if tenant is not None else "",
            scope=scope.name,
            lifetime_seconds=lifetime_s,
        )
        return self._transport.call(self._admin.CreateKey, request, convert_admin.created_key_from_proto)

    def list_keys(self, tenant: TenantId | str | None = None, *, page_size: int = 100) -> Iterator[KeyRecord]:
        """Yield the keys (of `tenant`, when given), fetching a page at a time; NotFound ``unknown_tenant``."""
        request = convert.message_of(
            admin_pb2.ListKeysRequest,
            tenant=tenant_path(tenant) if tenant is not None else "",
            page_size=page_size,
        )
        for page in self._transport.pages(self._admin.ListKeys, request):
            yield from map(convert_admin.key_from_proto, page.keys)

    def revoke_key(self, key: KeyRecord | str) -> KeyRecord:
        """Make a key worthless; a key that was revoked stays so. NotFound ``unknown_key``."""
        name = key_path(key.key_id if isinstance(key, KeyRecord) else key)
        request = convert.message_of(admin_pb2.RevokeKeyRequest, name=name)
        return self._transport.call_again(self._admin.RevokeKey, request, convert_admin.key_from_proto)

    def rotate_key(self, key: KeyRecord | str, *, overlap_s: float = 86_400.0) -> CreatedKey:
        """Make a key like `key` and return it with its secret; `key` itself ends after `overlap_s` seconds.

        Raises
        ------
        NotFound
            ``unknown_key``.
        FailedPrecondition
            ``key_ended``, for one that was revoked or has expired.
        InvalidArgument
            ``invalid_overlap`` or ``invalid_name``.
        """
        name = key_path(key.key_id if isinstance(key, KeyRecord) else key)
        request = convert.message_of(admin_pb2.RotateKeyRequest, name=name, overlap_seconds=overlap_s)
        return self._transport.call(self._admin.RotateKey, request, convert_admin.created_key_from_proto)

    def list_audit_events(
        self, tenant: TenantId | str | None = None, *, page_size: int = 1000
    ) -> Iterator[AuditRecord]:
        """Yield what was done (to the data of `tenant`, when given), oldest first, fetching a page at a time."""
        request = convert.message_of(
            admin_pb2.ListAuditEventsRequest,
            tenant=tenant_path(tenant) if tenant is not None else "",
            page_size=page_size,
        )
        for page in self._transport.pages(self._admin.ListAuditEvents, request):
            yield from map(event_from_proto, page.events)

    def resolve_key(self, digest: str) -> KeyRecord:
        """Return the valid key whose secret has this sha256 (hex).

        Raises
        ------
        NotFound
            ``unknown_key``, for one that is unknown, expired or revoked, all alike.
        InvalidArgument
            ``invalid_digest``.
        """
        request = convert.message_of(replicas_pb2.ResolveKeyRequest, digest=digest)
        return self._transport.call(self._replicas.ResolveKey, request, convert_admin.key_from_proto)
