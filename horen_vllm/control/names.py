"""Resource names in requests, and the short forms that the client accepts."""

import re
from typing import Final

from horen_vllm.control.limits import MAX_NAME
from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import CodebookName, EditId, TenantId, parse_name

OWN_TENANT: Final = "-"
"""Stands in a name for the tenant of whoever is asking; without authentication that is `ids.DEFAULT_TENANT`."""
ANY_CODEBOOK: Final = "-"
"""Stands in an edit's name for the codebook that is not known."""
NEWEST: Final = "-"
"""Stands in a calibration's name for the newest version."""

_KEY = re.compile(r"keys/(?P<key>[a-z0-9]+)")
_CALIBRATION = re.compile(r"calibrations/(?P<version>[1-9][0-9]{0,8}|-)")
_EDIT = re.compile(r"tenants/(?P<tenant>[^/]+)/codebooks/(?P<codebook>[^/]+)/edits/(?P<edit>[a-z0-9]+)")


def requested_tenant(parent: str) -> TenantId:
    """Return the tenant of ``tenants/T``; InvalidArgument ``invalid_name``."""
    _check_length(parent)
    prefix, _, tenant = parent.partition("/")
    if prefix != "tenants":
        raise InvalidArgument(f"{parent!r} is not a tenant: expected tenants/TENANT.", code="invalid_name")
    return TenantId(parse_name(tenant, "tenant"))


def requested_codebook(name: str) -> CodebookName:
    """Return the codebook of ``tenants/T/codebooks/C``; InvalidArgument ``invalid_name``."""
    _check_length(name)
    return CodebookName.parse(name)


def requested_edit(name: str) -> tuple[TenantId | CodebookName, EditId]:
    """Return the codebook (for ``-``: only the tenant) and the id of ``tenants/T/codebooks/C/edits/E``.

    Raises
    ------
    InvalidArgument
        ``invalid_name``.
    """
    _check_length(name)
    found = _EDIT.fullmatch(name)
    if found is None:
        message = f"{name!r} is not an edit: expected tenants/TENANT/codebooks/CODEBOOK/edits/EDIT."
        raise InvalidArgument(message, code="invalid_name")
    edit = EditId(found["edit"])
    if found["codebook"] == ANY_CODEBOOK:
        return TenantId(parse_name(found["tenant"], "tenant")), edit
    return requested_codebook(name.removesuffix(f"/edits/{edit}")), edit


def requested_quota(name: str) -> TenantId:
    """Return T of ``tenants/T/quota``; InvalidArgument ``invalid_name``."""
    _check_length(name)
    parent, _, quota = name.rpartition("/")
    if quota != "quota":
        raise InvalidArgument(f"{name!r} is not a quota: expected tenants/TENANT/quota.", code="invalid_name")
    return requested_tenant(parent)


def requested_key(name: str) -> str:
    """Return the id of ``keys/K``; InvalidArgument ``invalid_name``."""
    _check_length(name)
    found = _KEY.fullmatch(name)
    if found is None:
        raise InvalidArgument(f"{name!r} is not a key: expected keys/KEY.", code="invalid_name")
    return found["key"]


def requested_calibration(name: str) -> int | None:
    """Return V of ``calibrations/V``, None for ``-``, the newest one; InvalidArgument ``invalid_name``."""
    _check_length(name)
    found = _CALIBRATION.fullmatch(name)
    if found is None:
        message = f"{name!r} is not a calibration: expected calibrations/VERSION."
        raise InvalidArgument(message, code="invalid_name")
    return None if found["version"] == NEWEST else int(found["version"])


def replica_codebooks(revisions: dict[str, int]) -> dict[CodebookName, int]:
    """Return revisions by codebook, of any tenant; InvalidArgument ``invalid_name``."""
    for name in revisions:
        _check_length(name)
    return {CodebookName.parse(name): revision for name, revision in revisions.items()}


def tenant_path(tenant: TenantId | str) -> str:
    """Return the resource name of `tenant`."""
    return f"tenants/{tenant}"


def quota_path(tenant: TenantId | str) -> str:
    """Return the resource name of the quota of `tenant`."""
    return f"{tenant_path(tenant)}/quota"


def key_path(key_id: str) -> str:
    """Return the resource name of a key: of its id, or as it is."""
    return key_id if "/" in key_id else f"keys/{key_id}"


def calibration_path(version: int | None) -> str:
    """Return the resource name of a calibration; None: of the newest one."""
    return f"calibrations/{NEWEST if version is None else version}"


def codebook_path(codebook: CodebookName | str) -> str:
    """Return the resource name of `codebook`: a short name belongs to whoever is asking."""
    text = str(codebook)
    return text if "/" in text else f"tenants/{OWN_TENANT}/codebooks/{text}"


def edit_path(edit: str) -> str:
    """Return the resource name of `edit`: a full name or a bare id."""
    return edit if "/" in edit else f"{codebook_path(ANY_CODEBOOK)}/edits/{edit}"


def _check_length(name: str) -> None:
    if len(name) > MAX_NAME:
        message = f"a name has {len(name)} characters; at most {MAX_NAME} are allowed."
        raise InvalidArgument(message, code="invalid_name")
