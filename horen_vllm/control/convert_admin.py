"""Tenants and keys to protobuf messages and back; nothing else. Empty strings stand for None on the wire."""

from typing import Final

from horen_vllm.control._pb.horen.v1 import admin_pb2
from horen_vllm.control.messages import CreatedKey, QuotaView
from horen_vllm.control.names import key_path, quota_path, tenant_path
from horen_vllm.control.stamps import datetime_of, stamp_of
from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import KeyRecord, KeyScope, QuotaRecord, TenantRecord, UsageRecord

LIMITS: Final = ("max_codebooks", "max_entries", "max_pending", "edits_per_minute")
"""Fields of a quota that can be changed."""


def tenant_to_proto(record: TenantRecord) -> admin_pb2.Tenant:
    """Return the message of a tenant."""
    return admin_pb2.Tenant(name=tenant_path(record.name), create_time=stamp_of(record.created_at))


def tenant_from_proto(message: admin_pb2.Tenant) -> TenantRecord:
    """Read a tenant."""
    return TenantRecord(name=_tenant(message.name), created_at=datetime_of(message.create_time))


def scope_from_proto(scope: admin_pb2.Key.Scope) -> KeyScope | None:
    """Return the scope, or None for the unspecified one; InvalidArgument ``invalid_key_scope`` for a number of none."""
    if scope not in admin_pb2.Key.Scope.values():
        raise InvalidArgument(f"there is no key scope {scope}.", code="invalid_key_scope")
    return KeyScope[admin_pb2.Key.Scope.Name(scope)] if scope else None


def key_to_proto(record: KeyRecord) -> admin_pb2.Key:
    """Return the message of a key."""
    return admin_pb2.Key(
        name=key_path(record.key_id),
        tenant="" if record.tenant is None else tenant_path(record.tenant),
        scope=record.scope.name,
        create_time=stamp_of(record.created_at),
        expire_time=None if record.expires_at is None else stamp_of(record.expires_at),
        revoke_time=None if record.revoked_at is None else stamp_of(record.revoked_at),
    )


def key_from_proto(message: admin_pb2.Key) -> KeyRecord:
    """Read a key."""
    return KeyRecord(
        key_id=message.name.removeprefix("keys/"),
        tenant=_tenant(message.tenant) if message.tenant else None,
        scope=KeyScope[admin_pb2.Key.Scope.Name(message.scope)],
        created_at=datetime_of(message.create_time),
        expires_at=datetime_of(message.expire_time) if message.HasField("expire_time") else None,
        revoked_at=datetime_of(message.revoke_time) if message.HasField("revoke_time") else None,
    )


def created_key_to_proto(view: CreatedKey) -> admin_pb2.CreateKeyResponse:
    """Return the message of a new key and its secret."""
    return admin_pb2.CreateKeyResponse(key=key_to_proto(view.key), secret=view.secret)


def created_key_from_proto(message: admin_pb2.CreateKeyResponse) -> CreatedKey:
    """Read a new key and its secret."""
    return CreatedKey(key=key_from_proto(message.key), secret=message.secret)


def quota_to_proto(quota: QuotaRecord, usage: UsageRecord) -> admin_pb2.Quota:
    """Return the message of what a tenant may use and what it uses."""
    return admin_pb2.Quota(
        name=quota_path(quota.tenant),
        **{name: getattr(quota, name) for name in LIMITS},
        codebooks=usage.codebooks,
        entries=usage.entries,
        pending=usage.pending,
    )


def quota_from_proto(message: admin_pb2.Quota) -> QuotaView:
    """Read what a tenant may use and what it uses."""
    set_ = {name: getattr(message, name) for name in LIMITS if message.HasField(name)}
    return QuotaView(
        quota=QuotaRecord(tenant=_tenant(message.name.removesuffix("/quota")), **set_),
        usage=UsageRecord(codebooks=message.codebooks, entries=message.entries, pending=message.pending),
    )


def _tenant(name: str) -> TenantId:
    return TenantId(name.removeprefix("tenants/"))
