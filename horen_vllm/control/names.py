"""Resource names in requests: who may name what, and the short forms that the client accepts."""

import re
from typing import Final

from horen_vllm.control.limits import MAX_NAME
from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId, TenantId, parse_name

ANY_CODEBOOK: Final = "-"
"""Stands in an edit's name for the codebook that is not known."""

_EDIT = re.compile(r"tenants/(?P<tenant>[^/]+)/codebooks/(?P<codebook>[^/]+)/edits/(?P<edit>[a-z0-9]+)")


def requested_tenant(parent: str) -> TenantId:
    """Return the tenant of ``tenants/T``, if it is the caller's.

    Raises
    ------
    InvalidArgument
        ``invalid_name``.
    NotFound
        ``unknown_codebook``, for another tenant: whether it exists is not told.
    """
    _check_length(parent)
    prefix, _, tenant = parent.partition("/")
    if prefix != "tenants":
        raise InvalidArgument(f"{parent!r} is not a tenant: expected tenants/TENANT.", code="invalid_name")
    return _own(TenantId(parse_name(tenant, "tenant")), parent)


def requested_codebook(name: str) -> CodebookName:
    """Return the codebook of ``tenants/T/codebooks/C``, if the tenant is the caller's; raises as `requested_tenant`."""
    _check_length(name)
    parsed = CodebookName.parse(name)
    _own(parsed.tenant, name)
    return parsed


def requested_edit(name: str) -> tuple[CodebookName | None, EditId]:
    """Return the codebook (None for ``-``) and the id of ``tenants/T/codebooks/C/edits/E``.

    Raises
    ------
    InvalidArgument
        ``invalid_name``.
    NotFound
        ``unknown_codebook``, for another tenant.
    """
    _check_length(name)
    found = _EDIT.fullmatch(name)
    if found is None:
        message = f"{name!r} is not an edit: expected tenants/TENANT/codebooks/CODEBOOK/edits/EDIT."
        raise InvalidArgument(message, code="invalid_name")
    edit = EditId(found["edit"])
    if found["codebook"] == ANY_CODEBOOK:
        _own(TenantId(parse_name(found["tenant"], "tenant")), name)
        return None, edit
    return requested_codebook(name.removesuffix(f"/edits/{edit}")), edit


def replica_codebooks(revisions: dict[str, int]) -> dict[CodebookName, int]:
    """Return revisions by codebook, of any tenant; InvalidArgument ``invalid_name``."""
    for name in revisions:
        _check_length(name)
    return {CodebookName.parse(name): revision for name, revision in revisions.items()}


def codebook_path(codebook: CodebookName | str) -> str:
    """Return the resource name of `codebook`: a short name belongs to the default tenant."""
    text = str(codebook)
    return text if "/" in text else f"tenants/{DEFAULT_TENANT}/codebooks/{text}"


def edit_path(edit: str) -> str:
    """Return the resource name of `edit`: a full name or a bare id."""
    return edit if "/" in edit else f"{codebook_path(ANY_CODEBOOK)}/edits/{edit}"


def _own(tenant: TenantId, name: str) -> TenantId:
    # Without credentials everyone is the default tenant.
    if tenant != DEFAULT_TENANT:
        raise NotFound(f"There is no codebook {name}.", code="unknown_codebook")
    return tenant


def _check_length(name: str) -> None:
    if len(name) > MAX_NAME:
        message = f"a name has {len(name)} characters; at most {MAX_NAME} are allowed."
        raise InvalidArgument(message, code="invalid_name")
