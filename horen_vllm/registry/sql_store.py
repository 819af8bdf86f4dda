"""What the stores of the SQL registry share: the database, the clock, and finding a codebook."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from horen_vllm.errors import NotFound
from horen_vllm.ids import CodebookName
from horen_vllm.registry.database import Database
from horen_vllm.registry.schema import CodebookRow

Clock = Callable[[], datetime]
"""Returns the present time, with its zone."""


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


class SqlStore:
    """A store on one database, with its own idea of the present time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock


def find_codebook(session: Session, name: CodebookName, *, lock: bool = False, deleted: bool = False) -> CodebookRow:
    """Return the row of a codebook; `lock` keeps other writers of the codebook out until the commit.

    Parameters
    ----------
    deleted
        Whether a deleted one is found, too.

    Raises
    ------
    NotFound
        ``unknown_codebook``.
    """
    query = select(CodebookRow).where(CodebookRow.tenant == name.tenant, CodebookRow.name == name.codebook)
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None or (row.deleted_at is not None and not deleted):
        raise NotFound(f"There is no codebook {name}.", code="unknown_codebook")
    return row


def require_revision(codebook: CodebookRow, name: CodebookName, number: int, *, nothing: bool = False) -> None:
    """Check that the entries of revision `number` are known.

    Parameters
    ----------
    nothing
        Whether 0, which stands for no entries at all, is one, too.

    Raises
    ------
    NotFound
        ``unknown_revision``; ``revision_pruned``, when it is older than those that are kept.
    """
    if nothing and number == 0:
        return
    if not 1 <= number <= codebook.revision:
        message = f"{name} has no revision {number}: its newest is {codebook.revision}."
        raise NotFound(message, code="unknown_revision")
    if number < codebook.oldest_revision:
        message = f"revision {number} of {name} is not kept any more: the oldest is {codebook.oldest_revision}."
        raise NotFound(message, code="revision_pruned")
