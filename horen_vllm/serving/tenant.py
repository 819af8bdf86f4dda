"""Whose request runs: the tenant that a credential proved, for everything behind the authentication."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from horen_vllm.ids import TenantId

_current: Final[ContextVar[TenantId | None]] = ContextVar("horen_tenant", default=None)


def current_tenant() -> TenantId | None:
    """Return the tenant of the request that runs in this context; None when none was proved: it may see nothing."""
    return _current.get()


@contextmanager
def acting_for(tenant: TenantId | None) -> Iterator[None]:
    """Make `tenant` the current one inside a ``with`` block."""
    token = _current.set(tenant)
    try:
        yield
    finally:
        _current.reset(token)
