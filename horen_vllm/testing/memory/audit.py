"""The audit log in memory."""

from collections.abc import Sequence

from horen_vllm.ids import TenantId
from horen_vllm.registry.models import AuditRecord
from horen_vllm.testing.memory.state import MemoryStore


class MemoryAudit(MemoryStore):
    """`ports.AuditLog` in memory."""

    def list_audit_events(
        self, tenant: TenantId | None = None, *, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """Return events (that concern `tenant`, when given) with a number greater than `after`, oldest first."""
        later = [it for it in self._storage.now.audit if it.number > after]
        return [it for it in later if tenant in (None, it.tenant)][:limit]
