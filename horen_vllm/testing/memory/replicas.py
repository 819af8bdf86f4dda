"""Serving replicas in memory."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.models import ReplicaRecord, ReplicaReport
from horen_vllm.testing.memory.changes import record
from horen_vllm.testing.memory.state import MemoryStore

_FORGET_AFTER: Final = timedelta(days=1)


class MemoryReplicas(MemoryStore):
    """`ports.EpochStore` and `ports.ReplicaStore` in memory."""

    def epoch(self) -> str:
        """Return the registry's epoch."""
        return self._storage.now.epoch

    def begin_epoch(self) -> str:
        """Draw another epoch; what replicas have reported is forgotten, and their leases go on."""
        with self._storage.write() as state:
            before, state.epoch = state.epoch, uuid.uuid4().hex
            nothing = ReplicaReport(applied={}, probed={})
            state.replicas = {name: replace(it, report=nothing) for name, it in state.replicas.items()}
            detail = {"before": before, "epoch": state.epoch}
            record(state, "begin_epoch", tenant=None, resource="registry", now=self._clock(), detail=detail)
            return state.epoch

    def heartbeat(
        self, replica_id: str, *, model: str, fingerprint: str, epoch: str, report: ReplicaReport, lease_s: float
    ) -> ReplicaRecord:
        """Renew a replica's lease for `lease_s` seconds and record what it says of itself."""
        with self._storage.write() as state:
            if epoch != state.epoch:
                message = f"The registry is of epoch {state.epoch}, not {epoch!r}."
                raise FailedPrecondition(message, code="other_epoch")
            now = self._clock()
            kept = {name: it for name, it in state.replicas.items() if it.lease_expires_at >= now - _FORGET_AFTER}
            kept[replica_id] = ReplicaRecord(
                replica_id=replica_id,
                model=model,
                fingerprint=fingerprint,
                report=report,
                lease_expires_at=now + timedelta(seconds=lease_s),
            )
            state.replicas = kept
            return kept[replica_id]

    def live_replicas(self, fingerprint: str | None = None) -> Sequence[ReplicaRecord]:
        """Return replicas with an unexpired lease (of one base model, when given) by id."""
        now = self._clock()
        live = [it for _, it in sorted(self._storage.now.replicas.items()) if it.lease_expires_at > now]
        return [it for it in live if fingerprint in (None, it.fingerprint)]
