"""``GET /horen/v1/status``: what a server serves, what it could not take, and whether it hears the control plane."""

import math
from typing import Any

from horen_vllm.ids import TenantId
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.state import AgentState, CodebookState


def status_body(
    replica_id: str, served: ServedCodebooks | None, state: AgentState | None, tenant: TenantId | None
) -> dict[str, Any]:
    """Return the status as `tenant` may see it: no codebook of another one, and none without a tenant.

    Parameters
    ----------
    served
        The server's table; None before it is ready.
    state
        What the engine's agent knows; None without a control plane.
    """
    if served is None:
        return {"replica_id": replica_id, "stale": True, "lease_age_s": None, "codebooks": {}}
    stale, age = served.stale, served.lease_age_s
    states = state.codebooks if state else {name: _static(number) for name, number in served.revisions().items()}
    return {
        "replica_id": replica_id,
        "stale": stale,
        "lease_age_s": round(age, 3) if math.isfinite(age) else None,
        "codebooks": {
            name.codebook: _codebook(codebook) for name, codebook in sorted(states.items()) if name.tenant == tenant
        },
    }


def _static(revision: int) -> CodebookState:
    return CodebookState(applied=revision, probed=revision, latest=revision)


def _codebook(state: CodebookState) -> dict[str, Any]:
    refused = state.refused
    return {
        "revision": state.applied,
        "latest": state.latest,
        "probed": state.probed,
        "refused": {"revision": refused.revision, "code": refused.code, "message": refused.message}
        if refused
        else None,
        "failed_probes": [
            {"edit_id": it.probe.edit_id, "code": "probe_failed", "message": it.reason} for it in state.failed
        ],
        "without_probe": state.without_probe,
    }
