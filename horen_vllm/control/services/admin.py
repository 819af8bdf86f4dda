"""AdminService: tenants and their API keys."""
# ruff: noqa: N802 - the protocol names the methods.

from functools import partial
from typing import Any

from horen_vllm.control import convert_admin, limits, names, paging
from horen_vllm.control._pb.horen.v1 import admin_pb2, admin_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import CreatedKey
from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import TenantId, parse_name
from horen_vllm.keys import new_key
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.ports import Registry


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Serves ``horen.v1.AdminService`` from a registry.

    Parameters
    ----------
    registry
        Where tenants and digests of keys are stored.
    backend
        Where blocking work runs.
    """

    def __init__(self, registry: Registry, backend: Backend) -> None:
        self._registry = registry
        self._backend = backend

    async def CreateTenant(self, request: admin_pb2.CreateTenantRequest, _context: Any) -> admin_pb2.Tenant:
        """Make a tenant."""
        tenant = TenantId(parse_name(request.tenant_id[: limits.MAX_NAME], "tenant"))
        return convert_admin.tenant_to_proto(await self._backend.call(partial(self._registry.create_tenant, tenant)))

    async def ListTenants(self, request: admin_pb2.ListTenantsRequest, _context: Any) -> admin_pb2.ListTenantsResponse:
        """Return a page of the tenants."""
        size = limits.check_page_size(request.page_size)
        after = paging.decode_token(request.page_token)
        # One more than the page holds tells whether there is a next one.
        records = await self._backend.call(partial(self._registry.list_tenants, after=after, limit=size + 1))
        token = paging.encode_token(records[size - 1].name) if len(records) > size else ""
        return admin_pb2.ListTenantsResponse(
            tenants=map(convert_admin.tenant_to_proto, records[:size]), next_page_token=token
        )

    async def CreateKey(self, request: admin_pb2.CreateKeyRequest, _context: Any) -> admin_pb2.CreateKeyResponse:
        """Make a key; this answer is the only place where its secret ever stands."""
        return convert_admin.created_key_to_proto(await self._backend.call(partial(self._create_key, request)))

    async def ListKeys(self, request: admin_pb2.ListKeysRequest, _context: Any) -> admin_pb2.ListKeysResponse:
        """Return a page of the keys."""
        return await self._backend.call(partial(self._list_keys, request))

    async def RevokeKey(self, request: admin_pb2.RevokeKeyRequest, _context: Any) -> admin_pb2.Key:
        """Make a key worthless."""
        key_id = names.requested_key(request.name)
        return convert_admin.key_to_proto(await self._backend.call(partial(self._registry.revoke_key, key_id)))

    def _create_key(self, request: admin_pb2.CreateKeyRequest) -> CreatedKey:
        scope = convert_admin.scope_from_proto(request.scope) or KeyScope.READ
        tenant = names.requested_tenant(request.tenant) if request.tenant else None
        if (tenant is None) != (scope is KeyScope.ADMIN):
            message = "a key of scope admin belongs to no tenant, every other key to one."
            raise InvalidArgument(message, code="invalid_key_scope")
        lifetime = limits.check_lifetime(request.lifetime_seconds)
        made = new_key()
        record = self._registry.add_key(made.key_id, made.digest, tenant=tenant, scope=scope, lifetime_s=lifetime)
        return CreatedKey(key=record, secret=made.secret)

    def _list_keys(self, request: admin_pb2.ListKeysRequest) -> admin_pb2.ListKeysResponse:
        size = limits.check_page_size(request.page_size)
        after = paging.decode_token(request.page_token)
        tenant = names.requested_tenant(request.tenant) if request.tenant else None
        if tenant is not None:
            self._registry.get_tenant(tenant)
        records = self._registry.list_keys(tenant, after=after, limit=size + 1)
        token = paging.encode_token(records[size - 1].key_id) if len(records) > size else ""
        return admin_pb2.ListKeysResponse(keys=map(convert_admin.key_to_proto, records[:size]), next_page_token=token)
