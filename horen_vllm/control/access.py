"""Who may call what: one line for each method, and what each scope of key opens. A table, no network, no clock."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from horen_vllm.control.names import OWN_TENANT
from horen_vllm.errors import InvalidArgument, PermissionDenied
from horen_vllm.ids import DEFAULT_TENANT, TenantId, is_name
from horen_vllm.registry.models import KeyScope

_SHOWN: Final = 80
"""Characters of a name that a refusal repeats."""


class Access(Enum):
    """What a method needs."""

    READ = "read"
    """Looks at a tenant's codebooks and edits."""
    EDIT = "edit"
    """Changes them."""
    ADMIN = "admin"
    """Concerns all tenants, or who may do what."""
    REPLICA = "replica"
    """Is what serving replicas ask and report."""


OPENS: Final = {
    KeyScope.READ: frozenset({Access.READ}),
    KeyScope.EDIT: frozenset({Access.READ, Access.EDIT}),
    KeyScope.ADMIN: frozenset(Access),
    KeyScope.REPLICA: frozenset({Access.REPLICA}),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method needs."""

    access: Access
    named_in: str = ""
    """Field of the request, by its path, whose resource name begins with the tenant; empty: no tenant's own."""
    first_only: bool = False
    """Whether later requests of the same stream may leave the field empty."""


RULES: Final = {
    "EditService/SubmitEdit": Rule(Access.EDIT, "parent"),
    "EditService/SubmitEdits": Rule(Access.EDIT, "edit.parent"),
    "EditService/PreviewEdit": Rule(Access.READ, "parent"),
    "EditService/GetEdit": Rule(Access.READ, "name"),
    "EditService/ListEdits": Rule(Access.READ, "parent"),
    "EditService/WatchEdit": Rule(Access.READ, "name"),
    "EditService/RetireEdit": Rule(Access.EDIT, "name"),
    "CodebookService/CreateCodebook": Rule(Access.EDIT, "parent"),
    "CodebookService/GetCodebook": Rule(Access.READ, "name"),
    "CodebookService/ListCodebooks": Rule(Access.READ, "parent"),
    "CodebookService/ListRevisions": Rule(Access.READ, "parent"),
    "CodebookService/DeleteCodebook": Rule(Access.EDIT, "name"),
    "CodebookService/UndeleteCodebook": Rule(Access.EDIT, "name"),
    "CodebookService/DiffRevisions": Rule(Access.READ, "name"),
    "CodebookService/ExportCodebook": Rule(Access.READ, "name"),
    "CodebookService/ImportCodebook": Rule(Access.EDIT, "name", first_only=True),
    "CodebookService/RollbackCodebook": Rule(Access.EDIT, "name"),
    "CodebookService/WatchCodebook": Rule(Access.READ, "name"),
    "CodebookService/WatchRevisions": Rule(Access.READ, "parent"),
    "CodebookService/GetCalibration": Rule(Access.READ),
    "CodebookService/ListCalibrations": Rule(Access.READ),
    "AdminService/CreateTenant": Rule(Access.ADMIN),
    "AdminService/ListTenants": Rule(Access.ADMIN),
    "AdminService/CreateKey": Rule(Access.ADMIN),
    "AdminService/ListKeys": Rule(Access.ADMIN),
    "AdminService/RevokeKey": Rule(Access.ADMIN),
    "AdminService/RotateKey": Rule(Access.ADMIN),
    "AdminService/GetQuota": Rule(Access.ADMIN),
    "AdminService/UpdateQuota": Rule(Access.ADMIN),
    "AdminService/ListAuditEvents": Rule(Access.ADMIN),
    "ReplicaService/Sync": Rule(Access.REPLICA),
    "ReplicaService/Heartbeat": Rule(Access.REPLICA),
    "ReplicaService/ResolveKey": Rule(Access.REPLICA),
}
"""By service and method; a method without a line is answered to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is asking."""

    actor: str
    """``keys/K``, or ``local`` where nobody is asked for a key."""
    scope: KeyScope
    tenant: TenantId | None
    """Whose data it is about when a request says `OWN_TENANT`; None: it must name a tenant."""

    @property
    def bound(self) -> bool:
        """Whether other tenants' data are closed to it."""
        return self.scope in {KeyScope.READ, KeyScope.EDIT}


LOCAL: Final = Identity(actor="local", scope=KeyScope.ADMIN, tenant=DEFAULT_TENANT)
"""Everybody, on a server without authentication."""


def check_access(identity: Identity, method: str) -> Rule:
    """Return the rule of a method, ``SERVICE/METHOD``, if `identity` may call it.

    Raises
    ------
    PermissionDenied
        ``scope_required``.
    """
    rule = RULES.get(method)
    if rule is None or rule.access not in OPENS[identity.scope]:
        needed = sorted(scope.value for scope in KeyScope if rule and rule.access in OPENS[scope])
        message = f"{method} needs a key of scope {' or '.join(needed) or '(none opens it)'}."
        raise PermissionDenied(message, code="scope_required")
    return rule


def settle_tenant(identity: Identity, rule: Rule, request: Any, *, first: bool = True) -> TenantId | None:
    """Return the tenant that a request is about, after putting its name in place of `OWN_TENANT`.

    Parameters
    ----------
    request
        The message; changed in place.
    first
        Whether it is the first of its call.

    Raises
    ------
    InvalidArgument
        ``tenant_required``, for `OWN_TENANT` by a key without a tenant.
    PermissionDenied
        ``wrong_tenant``: the same for tenants that exist and others, and for what is no tenant's name.
    """
    holder, field = _holder(request, rule.named_in) if rule.named_in else (None, "")
    name: str = getattr(holder, field, "")
    if holder is None or (not name and rule.first_only and not first):
        return None
    collection, _, path = name.partition("/")
    named, slash, below = path.partition("/")
    if (collection, named) == ("tenants", OWN_TENANT):
        tenant = _own(identity)
        setattr(holder, field, f"tenants/{tenant}{slash}{below}")
        return tenant
    if identity.bound and (collection, named) != ("tenants", identity.tenant):
        raise PermissionDenied(
            f"this key opens tenants/{identity.tenant} only, not {name[:_SHOWN]!r}.", code="wrong_tenant"
        )
    # Names that are none are the handler's to refuse, together with whatever else is wrong with the request.
    return TenantId(named) if collection == "tenants" and is_name(named) else None


def _holder(request: Any, path: str) -> tuple[Any, str]:
    *steps, field = path.split(".")
    for step in steps:
        request = getattr(request, step)
    return request, field


def _own(identity: Identity) -> TenantId:
    if identity.tenant is None:
        message = f"a key of scope {identity.scope} has no tenant of its own: name one (--tenant)."
        raise InvalidArgument(message, code="tenant_required")
    return identity.tenant
