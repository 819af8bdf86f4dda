"""The methods of AdminService that are about API keys."""
# ruff: noqa: N802 - the protocol names the methods.

from functools import partial
from typing import Any

from horen_vllm.control import convert_admin, limits, names, paging
from horen_vllm.control._pb.horen.v1 import admin_pb2
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import CreatedKey
from horen_vllm.control.request_keys import request_key
from horen_vllm.keys import new_key
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.ports import Registry


class KeyMethods:
    """Part of `AdminService`."""

    _registry: Registry
    _backend: Backend

    async def CreateKey(self, request: admin_pb2.CreateKeyRequest, _context: Any) -> admin_pb2.CreateKeyResponse:
        """Make a key; this answer is the only place where its secret ever stands."""
        return convert_admin.created_key_to_proto(await self._backend.call(partial(self._create_key, request)))

    async def ListKeys(self, request: admin_pb2.ListKeysRequest, _context: Any) -> admin_pb2.ListKeysResponse:
        """Return a page of the keys."""
        return await self._backend.call(partial(self._list_keys, request))

    async def RevokeKey(self, request: admin_pb2.RevokeKeyRequest, _context: Any) -> admin_pb2.Key:
        """Make a key worthless."""
        key_id = names.requested_key(request.name)
        again = request_key("RevokeKey", None, request)
        work = partial(self._registry.revoke_key, key_id, request=again, validate_only=request.validate_only)
        return convert_admin.key_to_proto(await self._backend.call(work))

    async def RotateKey(self, request: admin_pb2.RotateKeyRequest, _context: Any) -> admin_pb2.CreateKeyResponse:
        """Make a key that takes another one's place, which goes on working for a while."""
        return convert_admin.created_key_to_proto(await self._backend.call(partial(self._rotate_key, request)))

    def _create_key(self, request: admin_pb2.CreateKeyRequest) -> CreatedKey:
        scope = convert_admin.scope_from_proto(request.scope) or KeyScope.READ
        tenant = names.requested_tenant(request.tenant) if request.tenant else None
        limits.check_key_scope(scope, tenant)
        lifetime = limits.check_lifetime(request.lifetime_seconds)
        made, again = new_key(), request_key("CreateKey", None, request)
        record = self._registry.add_key(
            made.key_id,
            made.digest,
            tenant=tenant,
            scope=scope,
            lifetime_s=lifetime,
            request=again,
            validate_only=request.validate_only,
        )
        return CreatedKey(key=record, secret="" if request.validate_only else made.secret)

    def _rotate_key(self, request: admin_pb2.RotateKeyRequest) -> CreatedKey:
        made, again = new_key(), request_key("RotateKey", None, request)
        record = self._registry.rotate_key(
            names.requested_key(request.name),
            made.key_id,
            made.digest,
            overlap_s=limits.check_overlap(request.overlap_seconds),
            request=again,
            validate_only=request.validate_only,
        )
        return CreatedKey(key=record, secret="" if request.validate_only else made.secret)

    def _list_keys(self, request: admin_pb2.ListKeysRequest) -> admin_pb2.ListKeysResponse:
        size = limits.check_page_size(request.page_size)
        after = paging.decode_token(request.page_token)
        tenant = names.requested_tenant(request.tenant) if request.tenant else None
        if tenant is not None:
            self._registry.get_tenant(tenant)
        # One more than the page holds tells whether there is a next one.
        records = self._registry.list_keys(tenant, after=after, limit=size + 1)
        token = paging.encode_token(records[size - 1].key_id) if len(records) > size else ""
        return admin_pb2.ListKeysResponse(keys=map(convert_admin.key_to_proto, records[:size]), next_page_token=token)
