"""How much there is in memory."""

from collections import Counter

from horen_vllm.registry.models import RegistryCounts
from horen_vllm.testing.memory.state import MemoryStore


class MemoryCounts(MemoryStore):
    """Counts of the registry in memory."""

    def counts(self) -> RegistryCounts:
        """Return how much there is, over all tenants."""
        state, now = self._storage.now, self._clock()
        unfinished = [it for it in state.edits.values() if not it.finished]
        held = [it for it in unfinished if it.worker and it.lease_expires_at and it.lease_expires_at > now]
        oldest = min((it.record.created_at for it in unfinished), default=now)
        return RegistryCounts(
            unfinished=dict(Counter(it.record.state for it in unfinished)),
            oldest_unfinished_s=max(0.0, (now - oldest).total_seconds()),
            claimed=len(held),
            workers=len({it.worker for it in held}),
            live_replicas=sum(it.lease_expires_at > now for it in state.replicas.values()),
            codebooks=sum(it.record.deleted_at is None for it in state.books.values()),
            audit_events=len(state.audit),
        )
