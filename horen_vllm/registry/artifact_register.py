"""Which artifacts the store may lose: none that is live here.

A writer registers a file before it writes it, and a publication that names it locks its row; the collector deletes a
file only inside the transaction that holds the row. So whoever comes second sees what the first has done.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.models import ArtifactState
from horen_vllm.registry.schema import ArtifactRow, CalibrationRow, CodebookRow, EditRow, MembershipRow
from horen_vllm.registry.sql_store import SqlStore

AT_ONCE: Final = 500
"""Rows of one statement: databases bound the parameters that one may have."""
_SHARED: Final = ("space", "background")
"""Method parameters that name a file."""


class SqlArtifactRegister(SqlStore):
    """`ports.ArtifactRegister` on SQL."""

    def register_artifacts(self, sizes: Mapping[str, int]) -> None:
        """Say which files, by digest, with how many bytes, are about to be written; they are live from now on.

        Waits for a collector that is deleting one of them, so that the file is written after that.
        """
        now = self._clock()
        digests = sorted(sizes)
        for first in range(0, len(digests), AT_ONCE):
            with self._database.write("") as session:
                _register(session, digests[first : first + AT_ONCE], sizes, now)


def require_live(session: Session, digests: Collection[str]) -> None:
    """Lock the rows of `digests` until the commit.

    A file without a row was never registered, and so never condemned. Of a condemned one nobody knows whether it is
    there: a collector may have died between the file and its row.

    Raises
    ------
    FailedPrecondition
        ``artifact_collected``, when one of the files is not live: it must be registered and written again.
    """
    for row in locked(session, digests):
        if row.state is not ArtifactState.LIVE:
            message = f"artifact {row.digest} is being deleted since nothing needed it: store it again."
            raise FailedPrecondition(message, code="artifact_collected")


def locked(session: Session, digests: Collection[str]) -> list[ArtifactRow]:
    """Return the rows of those `digests` that have one, locked in one order for all."""
    wanted = sorted(set(digests))
    rows: list[ArtifactRow] = []
    for first in range(0, len(wanted), AT_ONCE):
        part = wanted[first : first + AT_ONCE]
        query = select(ArtifactRow).where(ArtifactRow.digest.in_(part)).order_by(ArtifactRow.digest)
        rows += session.scalars(query.with_for_update())
    return rows


def needed(session: Session, digests: Collection[str]) -> set[str]:
    """Return those of `digests` that must not be deleted.

    Needed is the entry of every edit that some retained revision of some codebook contains, deleted codebooks included
    until they are purged; and the routing space and background of every such codebook and of every calibration. What a
    live replica serves is among them: revisions that a live replica has applied are not pruned (`collecting`). Files
    of edits that are being made are protected by their age alone, which the collector's grace is for.
    """
    found = _shared(session) & set(digests)
    wanted = sorted(set(digests) - found)
    for first in range(0, len(wanted), AT_ONCE):
        part = wanted[first : first + AT_ONCE]
        kept = exists().where(MembershipRow.edit_id == EditRow.edit_id)
        found.update(
            it for it in session.scalars(select(EditRow.artifact).where(EditRow.artifact.in_(part), kept)) if it
        )
    return found


def _register(session: Session, digests: list[str], sizes: Mapping[str, int], now: datetime) -> None:
    rows = [
        {"digest": it, "bytes": sizes[it], "state": ArtifactState.LIVE, "created_at": now, "changed_at": now}
        for it in digests
    ]
    # Two writers may register one file at once; the later one waits for the earlier, and for a collector.
    kind = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    made = kind(ArtifactRow).values(rows)
    session.execute(
        made.on_conflict_do_update(
            index_elements=[ArtifactRow.digest], set_={"state": ArtifactState.LIVE, "changed_at": now}
        )
    )


def _shared(session: Session) -> set[str]:
    books = select(CodebookRow.parameters).where(CodebookRow.oldest_revision <= CodebookRow.revision)
    found = list(session.scalars(books))
    for presets in session.scalars(select(CalibrationRow.presets)):
        found += presets.values()
    return {str(parameters[name]) for parameters in found for name in _SHARED if parameters.get(name)}
