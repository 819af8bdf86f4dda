"""The SQL registry: all ports on one database."""

from horen_vllm.registry.audit_store import SqlAuditLog
from horen_vllm.registry.calibration_store import SqlCalibrationStore
from horen_vllm.registry.codebook_store import SqlCodebookStore
from horen_vllm.registry.collecting import SqlCollector
from horen_vllm.registry.counts_store import SqlCounts
from horen_vllm.registry.database import Database
from horen_vllm.registry.edit_queue import SqlEditQueue
from horen_vllm.registry.epoch_store import SqlEpoch
from horen_vllm.registry.key_rotation import SqlKeyRotation
from horen_vllm.registry.preview_store import SqlPreviewStore
from horen_vllm.registry.quota_store import SqlQuotaStore
from horen_vllm.registry.replica_store import SqlReplicaStore
from horen_vllm.registry.sql_store import Clock, utc_now
from horen_vllm.registry.tenant_store import SqlTenantStore
from horen_vllm.registry.threshold_store import SqlThresholdStore
from horen_vllm.registry.transfer_store import SqlTransferStore


class SqlRegistry(
    SqlCodebookStore,
    SqlEditQueue,
    SqlThresholdStore,
    SqlPreviewStore,
    SqlQuotaStore,
    SqlEpoch,
    SqlReplicaStore,
    SqlTenantStore,
    SqlKeyRotation,
    SqlCalibrationStore,
    SqlAuditLog,
    SqlTransferStore,
    SqlCollector,
    SqlCounts,
):
    """`ports.Registry` on SQL: threads and processes may share the database.

    Parameters
    ----------
    url
        SQLAlchemy URL, such as ``sqlite:////var/lib/horen/registry.db``.
    clock
        Returns the present time, with its zone; leases are measured by it.

    Raises
    ------
    InvalidArgument
        ``invalid_registry_url``, when the URL is malformed or names an unknown database.
    FailedPrecondition
        ``registry_driver_missing``, when the driver that the URL names is not installed.
    """

    def __init__(self, url: str, *, clock: Clock = utc_now) -> None:
        super().__init__(Database(url), clock)

    def check_schema(self) -> None:
        """Check that the database is at this version's migration.

        Raises
        ------
        FailedPrecondition
            ``schema_out_of_date``; ``migrations_missing``.
        """
        # Alembic takes as long to import as the rest of the registry, and only this needs it.
        from horen_vllm.registry.migrate import check_current  # noqa: PLC0415

        check_current(self._database)

    def close(self) -> None:
        """Release the connections."""
        self._database.close()
