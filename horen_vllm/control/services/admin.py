"""AdminService: tenants, their API keys and quotas, and what was done."""
# ruff: noqa: N802 - the protocol names the methods.

from functools import partial
from typing import Any, Final

from horen_vllm.control import convert_admin, convert_changes, limits, names, paging
from horen_vllm.control._pb.horen.v1 import admin_pb2, admin_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.services.keys import KeyMethods
from horen_vllm.control.services.quotas import QuotaMethods
from horen_vllm.ids import TenantId, parse_name
from horen_vllm.registry.ports import Registry

_MOST_EVENTS: Final = 2**63 - 1


class AdminService(KeyMethods, QuotaMethods, admin_pb2_grpc.AdminServiceServicer):
    """Serves ``horen.v1.AdminService`` from a registry.

    Parameters
    ----------
    registry
        Where tenants, digests of keys and the audit log are stored.
    backend
        Where blocking work runs.
    """

    def __init__(self, registry: Registry, backend: Backend) -> None:
        self._registry = registry
        self._backend = backend

    async def CreateTenant(self, request: admin_pb2.CreateTenantRequest, _context: Any) -> admin_pb2.Tenant:
        """Make a tenant."""
        tenant = TenantId(parse_name(request.tenant_id[: limits.MAX_NAME], "tenant"))
        again = request_key("CreateTenant", None, request)
        work = partial(self._registry.create_tenant, tenant, request=again, validate_only=request.validate_only)
        return convert_admin.tenant_to_proto(await self._backend.call(work))

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

    async def ListAuditEvents(
        self, request: admin_pb2.ListAuditEventsRequest, _context: Any
    ) -> admin_pb2.ListAuditEventsResponse:
        """Return a page of what was done."""
        size = limits.check_page_size(request.page_size)
        after = paging.decode_number(request.page_token, most=_MOST_EVENTS)
        tenant = names.requested_tenant(request.tenant) if request.tenant else None
        read = partial(self._registry.list_audit_events, tenant, after=after, limit=size + 1)
        records = await self._backend.call(read)
        token = paging.encode_token(str(records[size - 1].number)) if len(records) > size else ""
        return admin_pb2.ListAuditEventsResponse(
            events=map(convert_changes.event_to_proto, records[:size]), next_page_token=token
        )
