"""Writing the audit log: every change notes itself in its own transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from horen_vllm.registry.audit import Caller, current_caller
from horen_vllm.registry.schema import AuditRow


def record(
    session: Session,
    method: str,
    *,
    tenant: str | None,
    resource: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
    caller: Caller | None = None,
) -> None:
    """Note a change.

    Parameters
    ----------
    method
        Name of the call, such as ``SubmitEdit``, or of the worker's act, such as ``publish``.
    tenant
        Whom it concerns; None: nobody in particular.
    resource
        Name of what was changed.
    detail
        More, as JSON types: numbers, states, ids. Never texts of edits.
    caller
        Who did it; None: whoever is asking in this context.
    """
    values = event_values(method, tenant=tenant, resource=resource, now=now, detail=detail, caller=caller)
    session.add(AuditRow(**values))


def event_values(
    method: str,
    *,
    tenant: str | None,
    resource: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Return the columns of the row that `record` adds, for those who add many at once."""
    who = caller or current_caller()
    return {
        "created_at": now,
        "actor": who.actor,
        "method": method,
        "tenant": tenant,
        "resource": resource,
        "request_id": who.call_id,
        "detail": dict(detail or {}),
    }
