"""ReplicaService: tells serving processes about revisions and records what they have applied."""
# ruff: noqa: N802 - the protocol names the methods.

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from horen_vllm.control import convert, convert_admin, derive, limits, names
from horen_vllm.control._pb.horen.v1 import admin_pb2, replicas_pb2, replicas_pb2_grpc
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import DeltaView, SyncView
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import CodebookRecord
from horen_vllm.registry.ports import Registry

_ENTRIES_AT_ONCE: Final = 100_000
"""From so many entries on, what is left of the codebooks waits for the next answer; 110 bytes each, about."""


class ReplicaService(replicas_pb2_grpc.ReplicaServiceServicer):
    """Serves ``horen.v1.ReplicaService`` from a registry.

    Parameters
    ----------
    registry
        Where codebooks and replicas are stored.
    backend
        Where blocking work runs.
    """

    def __init__(self, registry: Registry, backend: Backend) -> None:
        self._registry = registry
        self._backend = backend

    async def Sync(self, request: replicas_pb2.SyncRequest, _context: Any) -> replicas_pb2.SyncResponse:
        """Return what the replica does not know, as soon as there is something, at most `wait_seconds` later.

        Of another epoch of the registry it knows nothing, and is told so at once.
        """
        limits.check_replica(request.replica_id, request.model, request.fingerprint)
        end = asyncio.get_running_loop().time() + limits.check_wait(request.wait_seconds)
        known = names.replica_codebooks(dict(request.known))
        async for view in self._backend.poll(partial(self._changes, request.fingerprint, known, request.epoch)):
            if view or view.epoch != request.epoch or asyncio.get_running_loop().time() >= end:
                return convert.sync_to_proto(view)
        raise AssertionError("polling ends only by an exception")

    async def Heartbeat(self, request: replicas_pb2.HeartbeatRequest, _context: Any) -> replicas_pb2.HeartbeatResponse:
        """Renew the replica's lease."""
        limits.check_replica(request.replica_id, request.model, request.fingerprint)
        record = await self._backend.call(
            partial(
                self._registry.heartbeat,
                request.replica_id,
                model=request.model,
                fingerprint=request.fingerprint,
                epoch=request.epoch,
                report=convert.report_from_proto(request),
                lease_s=limits.check_lease(request.lease_seconds),
            )
        )
        return convert.lease_to_proto(record.lease_expires_at)

    async def ResolveKey(self, request: replicas_pb2.ResolveKeyRequest, _context: Any) -> admin_pb2.Key:
        """Return the valid key with this digest."""
        digest = limits.check_digest(request.digest)
        return convert_admin.key_to_proto(await self._backend.call(partial(self._registry.resolve_key, digest)))

    def _changes(self, fingerprint: str, known: Mapping[CodebookName, int], epoch: str) -> SyncView:
        current = self._registry.epoch()
        # Of another epoch a number says nothing: the revision that has it now may hold other entries.
        comparable = known if epoch == current else {}
        records = [item for item in self._registry.list_codebooks() if item.fingerprint == fingerprint]
        gone = sorted(set(known) - {record.name for record in records})
        changed = [record for record in records if comparable.get(record.name, 0) != record.revision]
        deltas, entries = list[DeltaView](), 0
        for record in changed:
            if entries >= _ENTRIES_AT_ONCE:
                break
            deltas.append(self._delta(record, comparable.get(record.name, 0)))
            entries += len(deltas[-1].added) + len(deltas[-1].removed)
        return SyncView(
            deltas=tuple(deltas),
            removed_codebooks=tuple(gone),
            epoch=current,
            more=len(deltas) < len(changed),
        )

    def _delta(self, record: CodebookRecord, since: int) -> DeltaView:
        # A replica that is ahead has seen a registry that was restored from a backup since, and of which nobody said
        # so; one that is far behind, a revision that is not kept any more. Both start over.
        kept = record.oldest_revision <= since <= record.revision
        delta = self._registry.delta(record.name, since if kept else 0)
        return DeltaView(
            codebook=derive.codebook_view(delta.codebook, self._registry.live_replicas(record.fingerprint)),
            base=delta.base,
            revision=delta.revision,
            added=delta.added,
            removed=delta.removed,
        )
