"""The registry in memory: all ports on one storage."""

from horen_vllm.testing.memory.artifacts import MemoryArtifacts
from horen_vllm.testing.memory.audit import MemoryAudit
from horen_vllm.testing.memory.calibrations import MemoryCalibrations
from horen_vllm.testing.memory.codebooks import MemoryCodebooks
from horen_vllm.testing.memory.counts import MemoryCounts
from horen_vllm.testing.memory.previews import MemoryPreviews
from horen_vllm.testing.memory.queue import MemoryQueue
from horen_vllm.testing.memory.quotas import MemoryQuotas
from horen_vllm.testing.memory.replicas import MemoryReplicas
from horen_vllm.testing.memory.state import Clock, Storage, utc_now
from horen_vllm.testing.memory.tenants import MemoryTenants
from horen_vllm.testing.memory.thresholds import MemoryThresholds
from horen_vllm.testing.memory.transfers import MemoryTransfers


class MemoryRegistry(
    MemoryCodebooks,
    MemoryQueue,
    MemoryThresholds,
    MemoryPreviews,
    MemoryQuotas,
    MemoryReplicas,
    MemoryTenants,
    MemoryCalibrations,
    MemoryAudit,
    MemoryTransfers,
    MemoryArtifacts,
    MemoryCounts,
):
    """`ports.Registry` in memory: keeps the contract of the SQL registry, and nothing else.

    Each write copies what there is, so it is for tests, not for many thousands of edits. Threads may share it.

    Parameters
    ----------
    storage
        What it works on; registries on one storage see each other's writes. None: one of its own.
    clock
        Returns the present time, with its zone; leases are measured by it.
    """

    def __init__(self, storage: Storage | None = None, *, clock: Clock = utc_now) -> None:
        super().__init__(storage or Storage(clock), clock)

    def check_schema(self) -> None:
        """Do nothing: it has no schema."""

    def close(self) -> None:
        """Do nothing: the storage stays as it is."""
