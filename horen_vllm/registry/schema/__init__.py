"""The database schema, one table a file; rows never leave the registry package."""

from horen_vllm.registry.schema.api_keys import ApiKeyRow
from horen_vllm.registry.schema.artifacts import ArtifactRow
from horen_vllm.registry.schema.attempts import AttemptRow
from horen_vllm.registry.schema.audit_log import AuditRow
from horen_vllm.registry.schema.base import Base
from horen_vllm.registry.schema.calibrations import CalibrationRow
from horen_vllm.registry.schema.codebooks import CodebookRow
from horen_vllm.registry.schema.edits import EditRow
from horen_vllm.registry.schema.epochs import EpochRow
from horen_vllm.registry.schema.memberships import MembershipRow
from horen_vllm.registry.schema.previews import PreviewRow
from horen_vllm.registry.schema.quotas import QuotaRow
from horen_vllm.registry.schema.replicas import ReplicaRow
from horen_vllm.registry.schema.requests import RequestRow
from horen_vllm.registry.schema.revisions import RevisionRow
from horen_vllm.registry.schema.tenants import TenantRow

__all__ = [
    "ApiKeyRow",
    "ArtifactRow",
    "AttemptRow",
    "AuditRow",
    "Base",
    "CalibrationRow",
    "CodebookRow",
    "EditRow",
    "EpochRow",
    "MembershipRow",
    "PreviewRow",
    "QuotaRow",
    "ReplicaRow",
    "RequestRow",
    "RevisionRow",
    "TenantRow",
]
