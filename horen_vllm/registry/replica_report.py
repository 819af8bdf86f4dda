"""A replica's report as JSON types, and back."""

from dataclasses import asdict
from typing import Any

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import FailedProbe, RefusedRevision, ReplicaReport


def report_to_json(report: ReplicaReport) -> dict[str, Any]:
    """Return `report` as JSON types; codebooks by resource name, in order."""
    return {
        "applied": {str(name): number for name, number in sorted(report.applied.items())},
        "probed": {str(name): number for name, number in sorted(report.probed.items())},
        "failed_probes": [{**asdict(it), "codebook": str(it.codebook)} for it in report.failed_probes],
        "refused": [{**asdict(it), "codebook": str(it.codebook)} for it in report.refused],
    }


def report_from_json(fields: dict[str, Any]) -> ReplicaReport:
    """Read what `report_to_json` wrote."""
    return ReplicaReport(
        applied={CodebookName.parse(name): number for name, number in fields["applied"].items()},
        probed={CodebookName.parse(name): number for name, number in fields["probed"].items()},
        failed_probes=tuple(
            FailedProbe(**{**it, "codebook": CodebookName.parse(it["codebook"]), "edit_id": EditId(it["edit_id"])})
            for it in fields["failed_probes"]
        ),
        refused=tuple(
            RefusedRevision(**{**it, "codebook": CodebookName.parse(it["codebook"])}) for it in fields["refused"]
        ),
    )
