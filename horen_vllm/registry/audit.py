"""Who is asking: what the audit log says of the changes that are made in this context."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The one for whom the registry is changed."""

    actor: str = "local"
    """``keys/K``, ``workers/W``, ``ttl`` or ``local`` (no authentication)."""
    call_id: str | None = None
    """Id of the call, as in the log."""


_caller: ContextVar[Caller] = ContextVar("horen_caller", default=Caller())  # noqa: B039 - frozen


def current_caller() -> Caller:
    """Return who is asking in this context; ``local`` where nobody said."""
    return _caller.get()


def act_as(caller: Caller) -> None:
    """Make `caller` the one who is asking, for what is left of this context, such as that of a task."""
    _caller.set(caller)


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Make `caller` the one who is asking, for the time of the block and for threads that copy its context."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def worker_caller(worker: str) -> Caller:
    """Return a worker as the one who does something."""
    return Caller(actor=f"workers/{worker}")
