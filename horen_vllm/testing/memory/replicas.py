"""Serving replicas in memory."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from horen_vllm.registry.models import ReplicaRecord, ReplicaReport
from horen_vllm.testing.memory.state import MemoryStore

_FORGET_AFTER: Final = timedelta(days=1)


class MemoryReplicas(MemoryStore):
    """`ports.ReplicaStore` in memory."""

    def heartbeat(
        self, replica_id: str, *, model: str, fingerprint: str, report: ReplicaReport, lease_s: float
    ) -> ReplicaRecord:
        """Renew a replica's lease for `lease_s` seconds and record what it says of itself."""
        with self._storage.write() as state:
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
