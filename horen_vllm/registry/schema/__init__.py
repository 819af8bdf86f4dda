"""The database schema, one table a file; rows never leave the registry package."""

from horen_vllm.registry.schema.api_keys import ApiKeyRow
from horen_vllm.registry.schema.base import Base
from horen_vllm.registry.schema.calibrations import CalibrationRow
from horen_vllm.registry.schema.codebooks import CodebookRow
from horen_vllm.registry.schema.edits import EditRow
from horen_vllm.registry.schema.memberships import MembershipRow
from horen_vllm.registry.schema.replicas import ReplicaRow
from horen_vllm.registry.schema.revisions import RevisionRow
from horen_vllm.registry.schema.tenants import TenantRow

__all__ = [
    "ApiKeyRow",
    "Base",
    "CalibrationRow",
    "CodebookRow",
    "EditRow",
    "MembershipRow",
    "ReplicaRow",
    "RevisionRow",
    "TenantRow",
]
