"""From a client's request id to the registry's: the id, and what it stands for."""

import hashlib
from typing import Any

from horen_vllm.control import limits
from horen_vllm.ids import TenantId
from horen_vllm.registry.models import RequestKey


def request_key(method: str, tenant: TenantId | None, request: Any) -> RequestKey | None:
    """Return the key of a request message with a field ``request_id``, or None where that is empty.

    Parameters
    ----------
    method
        Name of the call, such as ``SubmitEdit``.
    tenant
        Whose ids they are; None: the operator's.
    request
        The message; what of it is not the id decides whether a repetition is one.

    Raises
    ------
    InvalidArgument
        ``invalid_request_id`` or ``invalid_text``.
    """
    request_id = limits.check_request_id(request.request_id)
    if request_id is None:
        return None
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField("request_id")
    digest = hashlib.sha256(rest.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(tenant=tenant, method=method, request_id=request_id, digest=digest)
