"""The methods of AdminService that are about quotas."""
# ruff: noqa: N802 - the protocol names the methods.

from functools import partial
from typing import Any

from horen_vllm.control import convert_admin, names
from horen_vllm.control._pb.horen.v1 import admin_pb2
from horen_vllm.control.backend import Backend
from horen_vllm.control.masks import check_mask
from horen_vllm.control.request_keys import request_key
from horen_vllm.errors import InvalidArgument
from horen_vllm.registry.ports import Registry


class QuotaMethods:
    """Part of `AdminService`."""

    _registry: Registry
    _backend: Backend

    async def GetQuota(self, request: admin_pb2.GetQuotaRequest, _context: Any) -> admin_pb2.Quota:
        """Return what a tenant may use and what it uses."""
        tenant = names.requested_quota(request.name)
        return convert_admin.quota_to_proto(*await self._backend.call(partial(self._registry.get_quota, tenant)))

    async def UpdateQuota(self, request: admin_pb2.UpdateQuotaRequest, _context: Any) -> admin_pb2.Quota:
        """Change what a tenant may use."""
        tenant = names.requested_quota(request.quota.name)
        again = request_key("UpdateQuota", None, request)
        change = partial(
            self._registry.update_quota,
            tenant,
            _limits(request),
            request=None if request.validate_only else again,
            validate_only=request.validate_only,
        )
        return convert_admin.quota_to_proto(*await self._backend.call(change))


def _limits(request: admin_pb2.UpdateQuotaRequest) -> dict[str, int | None]:
    mask = check_mask(request.update_mask, admin_pb2.Quota, "update_mask")
    named = convert_admin.LIMITS if mask is None else tuple(mask.paths)
    for name in named:
        if name not in convert_admin.LIMITS:
            message = f"update_mask names {name!r}; only {', '.join(convert_admin.LIMITS)} can be changed."
            raise InvalidArgument(message, code="invalid_field_mask")
    return {name: getattr(request.quota, name) if request.quota.HasField(name) else None for name in named}
