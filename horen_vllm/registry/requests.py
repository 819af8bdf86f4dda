"""Request ids: the same change that is asked for twice within a day is made once.

A method that takes a `RequestKey` calls `replayed` first in its transaction, before it locks any row, and `remember`
once it has made what was asked for.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, insert, select, text, tuple_
from sqlalchemy.orm import Session

from horen_vllm.errors import AlreadyExists
from horen_vllm.registry.models import RequestKey
from horen_vllm.registry.schema import RequestRow

KEPT_FOR: Final = timedelta(days=1)
"""How long an id stands for its request; afterwards it may be used again."""
_PURGED: Final = 100
"""Old rows that a write deletes at least, where there are so many; at most twice as many as it adds beside."""
_LOCKS: Final = text("SELECT pg_advisory_xact_lock(number) FROM unnest(CAST(:numbers AS bigint[])) AS number")

_Id = tuple[str, str]


def replayed(session: Session, key: RequestKey | None, now: datetime) -> str | None:
    """Return the reference that `remember` was given for `key`, or None when the change is still to be made.

    On PostgreSQL it keeps other transactions with the same id waiting until this one ends.

    Raises
    ------
    AlreadyExists
        ``request_id_reused``, when the id stands for another request.
    """
    if key is None:
        return None
    row = known_requests(session, (key,), now).get(_id(key))
    return None if row is None else require_same(row, key)


def remember(session: Session, key: RequestKey | None, reference: str, now: datetime) -> None:
    """Note that the change of `key` was made, and what a repetition is answered from."""
    if key is not None:
        remember_all(session, ((key, reference),), now)


def known_requests(session: Session, keys: Iterable[RequestKey], now: datetime) -> dict[_Id, RequestRow]:
    """Return what is known of some ids, by tenant and id; locks them as `replayed` does."""
    ids = sorted({_id(key) for key in keys})
    if not ids:
        return {}
    _lock(session, ids)
    query = select(RequestRow).where(tuple_(RequestRow.tenant, RequestRow.request_id).in_(ids))
    rows = {(row.tenant, row.request_id): row for row in session.scalars(query)}
    for found, row in list(rows.items()):
        if row.created_at <= now - KEPT_FOR:
            session.delete(rows.pop(found))
    session.flush()
    return rows


def require_same(row: RequestRow, key: RequestKey) -> str:
    """Return the reference of a known id, if it stands for the request of `key`.

    Raises
    ------
    AlreadyExists
        ``request_id_reused``.
    """
    if (row.method, row.digest) != (key.method, key.digest):
        what = "another request" if row.method == key.method else f"a call of {row.method}"
        message = f"The request id {key.request_id!r} was used for {what}, which made {row.reference}."
        raise AlreadyExists(message, code="request_id_reused")
    return row.reference


def remember_all(session: Session, made: Sequence[tuple[RequestKey, str]], now: datetime) -> None:
    """Do what `remember` does for several changes of one transaction."""
    rows = [
        {
            "tenant": key.tenant or "",
            "request_id": key.request_id,
            "method": key.method,
            "digest": key.digest,
            "reference": reference,
            "created_at": now,
        }
        for key, reference in made
    ]
    if rows:
        session.execute(insert(RequestRow), rows)
        _purge(session, now, max(_PURGED, 2 * len(rows)))


def _purge(session: Session, now: datetime, most: int) -> None:
    oldest = (
        select(RequestRow.tenant, RequestRow.request_id)
        .where(RequestRow.created_at <= now - KEPT_FOR)
        .order_by(RequestRow.created_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    gone = tuple_(RequestRow.tenant, RequestRow.request_id).in_(oldest)
    session.execute(delete(RequestRow).where(gone).execution_options(synchronize_session=False))


def _id(key: RequestKey) -> _Id:
    return key.tenant or "", key.request_id


def _lock(session: Session, ids: Sequence[_Id]) -> None:
    """Keep other transactions with these ids out until the commit, also while there are no rows to lock yet."""
    if session.get_bind().dialect.name != "postgresql":
        return  # SQLite has one writer at a time
    # In one order for everybody, so that two transactions never wait for each other.
    session.execute(_LOCKS, {"numbers": sorted({_lock_number(found) for found in ids})})


def _lock_number(found: _Id) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(found).encode()).digest()[:8], "big", signed=True)
