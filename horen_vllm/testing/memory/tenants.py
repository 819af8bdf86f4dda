"""Tenants and API keys in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from horen_vllm.errors import AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import TenantId
from horen_vllm.registry.audit import Caller
from horen_vllm.registry.models import KeyRecord, KeyScope, RequestKey, TenantRecord
from horen_vllm.testing.memory.changes import record, remember, replayed
from horen_vllm.testing.memory.state import MemoryStore, State


class MemoryTenants(MemoryStore):
    """`ports.TenantStore` in memory."""

    def create_tenant(
        self, tenant: TenantId, *, request: RequestKey | None = None, validate_only: bool = False
    ) -> TenantRecord:
        """Make a tenant; AlreadyExists ``tenant_exists``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            if replayed(state, request, now) is not None:
                return find_tenant(state, tenant)
            if tenant in state.tenants:
                raise AlreadyExists(f"There is a tenant {tenant} already.", code="tenant_exists")
            state.tenants[tenant] = TenantRecord(name=tenant, created_at=now)
            record(state, "CreateTenant", tenant=tenant, resource=f"tenants/{tenant}", now=now)
            remember(state, request, tenant, now)
            return state.tenants[tenant]

    def get_tenant(self, tenant: TenantId) -> TenantRecord:
        """Return a tenant; NotFound ``unknown_tenant``."""
        return find_tenant(self._storage.now, tenant)

    def list_tenants(self, *, after: str = "", limit: int = 1000) -> Sequence[TenantRecord]:
        """Return at most `limit` tenants with a name greater than `after`, by name."""
        return [it for name, it in sorted(self._storage.now.tenants.items()) if name > after][:limit]

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
        """Store the digest of a key; NotFound ``unknown_tenant``, AlreadyExists ``key_already_made``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            made = replayed(state, request, now)
            if made is not None:
                message = f"This request made the key keys/{made} already; secrets are told once: make another key."
                raise AlreadyExists(message, code="key_already_made")
            if tenant is not None:
                find_tenant(state, tenant)
            state.keys[key_id] = KeyRecord(
                key_id=key_id,
                tenant=tenant,
                scope=scope,
                created_at=now,
                expires_at=None if lifetime_s is None else now + timedelta(seconds=lifetime_s),
                revoked_at=None,
            )
            state.digests[digest] = key_id
            detail = {"scope": scope.value}
            record(state, "CreateKey", tenant=tenant, resource=f"keys/{key_id}", now=now, detail=detail)
            remember(state, request, key_id, now)
            return state.keys[key_id]

    def list_keys(self, tenant: TenantId | None = None, *, after: str = "", limit: int = 1000) -> Sequence[KeyRecord]:
        """Return at most `limit` keys (of `tenant`, when given) with an id greater than `after`, by id."""
        keys = [it for key_id, it in sorted(self._storage.now.keys.items()) if key_id > after]
        return [it for it in keys if tenant in (None, it.tenant)][:limit]

    def revoke_key(self, key_id: str, *, request: RequestKey | None = None, validate_only: bool = False) -> KeyRecord:
        """Make a key worthless from now on; once revoked, the first time stays. NotFound ``unknown_key``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            done = replayed(state, request, now) is not None
            key = state.keys.get(key_id)
            if key is None:
                raise NotFound(f"There is no key {key_id}.", code="unknown_key")
            if done:
                return key
            if key.revoked_at is None:
                key = state.keys[key_id] = replace(key, revoked_at=now)
                record(state, "RevokeKey", tenant=key.tenant, resource=f"keys/{key_id}", now=now)
            remember(state, request, key_id, now)
            return key

    def rotate_key(
        self,
        key_id: str,
        new_id: str,
        digest: str,
        *,
        overlap_s: float,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> KeyRecord:
        """Store a key like `key_id`, which ends soon; NotFound ``unknown_key``, FailedPrecondition ``key_ended``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            made = replayed(state, request, now)
            if made is not None:
                message = f"This request made the key keys/{made} already; secrets are told once: rotate that key."
                raise AlreadyExists(message, code="key_already_made")
            old = _find_valid(state, key_id, now)
            end = now + timedelta(seconds=overlap_s)
            state.keys[key_id] = replace(old, expires_at=min(end, old.expires_at or end))
            ends = None if old.expires_at is None else now + (old.expires_at - old.created_at)
            state.keys[new_id] = replace(old, key_id=new_id, created_at=now, expires_at=ends)
            state.digests[digest] = new_id
            detail = {"successor": f"keys/{new_id}", "overlap_s": overlap_s}
            record(state, "RotateKey", tenant=old.tenant, resource=f"keys/{key_id}", now=now, detail=detail)
            remember(state, request, new_id, now)
            return state.keys[new_id]

    def resolve_key(self, digest: str) -> KeyRecord:
        """Return the key with this digest; NotFound ``unknown_key``, also for one that has expired or was revoked.

        A key that was refused since it has expired stays refused, also when the clock is set back.
        """
        now = self._clock()
        key = self._storage.now.keys.get(self._storage.now.digests.get(digest, ""))
        if key is not None and key.revoked_at is None:
            if key.expires_at is None or key.expires_at > now:
                return key
            with self._storage.write() as state:
                state.keys[key.key_id] = replace(key, revoked_at=key.expires_at)
                resource = f"keys/{key.key_id}"
                record(state, "end_key", tenant=key.tenant, resource=resource, now=now, caller=Caller(actor="ttl"))
        raise NotFound("There is no such key, or it is no longer valid.", code="unknown_key")


def _find_valid(state: State, key_id: str, now: datetime) -> KeyRecord:
    key = state.keys.get(key_id)
    if key is None:
        raise NotFound(f"There is no key {key_id}.", code="unknown_key")
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        message = f"The key {key_id} was revoked or has expired: make a new one instead."
        raise FailedPrecondition(message, code="key_ended")
    return key


def find_tenant(state: State, tenant: TenantId) -> TenantRecord:
    """Return a tenant; NotFound ``unknown_tenant``."""
    found = state.tenants.get(tenant)
    if found is None:
        raise NotFound(f"There is no tenant {tenant}.", code="unknown_tenant")
    return found
