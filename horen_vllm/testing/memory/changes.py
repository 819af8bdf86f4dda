"""What every change in memory does beside: request ids and the audit log."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from horen_vllm.errors import AlreadyExists
from horen_vllm.ids import TenantId
from horen_vllm.registry.audit import Caller, current_caller
from horen_vllm.registry.models import AuditRecord, RequestKey
from horen_vllm.testing.memory.state import KnownRequest, State

SUBMITTED: Final = "SubmitEdit"
"""Method of the audit log's events that count as submissions."""
_KEPT_FOR: Final = timedelta(days=1)


def worker_caller(worker: str | None) -> Caller:
    """Return a worker as the one who did something."""
    return Caller(actor=f"workers/{worker or ''}")


def replayed(state: State, key: RequestKey | None, now: datetime) -> str | None:
    """Return what `remember` was given for `key`, or None when the change is still to be made.

    Raises
    ------
    AlreadyExists
        ``request_id_reused``, when the id stands for another request.
    """
    known = None if key is None else state.requests.get((key.tenant, key.request_id))
    if key is None or known is None or known.created_at <= now - _KEPT_FOR:
        return None
    if (known.key.method, known.key.digest) != (key.method, key.digest):
        what = "another request" if known.key.method == key.method else f"a call of {known.key.method}"
        message = f"The request id {key.request_id!r} was used for {what}, which made {known.reference}."
        raise AlreadyExists(message, code="request_id_reused")
    return known.reference


def remember(state: State, key: RequestKey | None, reference: str, now: datetime) -> None:
    """Note that the change of `key` was made, and what a repetition is answered from."""
    if key is not None:
        state.requests[key.tenant, key.request_id] = KnownRequest(key=key, reference=reference, created_at=now)


def record(
    state: State,
    method: str,
    *,
    tenant: TenantId | None,
    resource: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
    caller: Caller | None = None,
) -> None:
    """Note a change in the audit log; `caller` None: by whoever is asking in this context."""
    who = caller or current_caller()
    event = AuditRecord(
        number=len(state.audit) + 1,
        created_at=now,
        actor=who.actor,
        method=method,
        tenant=tenant,
        resource=resource,
        call_id=who.call_id,
        detail=dict(detail or {}),
    )
    state.audit.append(event)
