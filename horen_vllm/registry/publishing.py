"""How edits become entries: one revision each, a whole batch in a handful of statements."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import EditId
from horen_vllm.registry.artifact_register import require_live
from horen_vllm.registry.edit_rows import require_edits
from horen_vllm.registry.models import EditState, Publication, RevisionKind
from horen_vllm.registry.records import codebook_name
from horen_vllm.registry.revisioning import add_revision, close_entry, find_open_entries, open_entry
from horen_vllm.registry.schema import CodebookRow, EditRow


def publish_all(
    session: Session, codebook: CodebookRow, batch: Sequence[tuple[EditRow, Publication]], now: datetime
) -> set[str]:
    """Give each edit of `batch` the codebook's next revision, in order; return those that the last one contains.

    Parameters
    ----------
    codebook
        Its row, locked.
    batch
        Rows of edits that the caller holds, locked, each with what to publish.

    Raises
    ------
    FailedPrecondition
        ``revision_moved``; ``artifact_collected``.
    NotFound
        ``unknown_edit``.
    InvalidArgument
        ``invalid_parameter``, for a threshold that is no cosine.
    """
    publications = [publication for _, publication in batch]
    _require_chain(codebook, publications)
    require_edits(session, codebook, {edit for publication in publications for edit in _named(publication)})
    require_live(session, [publication.artifact for publication in publications])
    superseded = {edit for publication in publications for edit in publication.supersedes}
    opened = find_open_entries(session, superseded)
    for row, publication in batch:
        closed = tuple(edit for edit in publication.supersedes if edit in opened)
        for edit in set(closed):
            close_entry(codebook, opened.pop(edit))
        opened[row.edit_id] = open_entry(session, codebook, row.edit_id)
        count = codebook.entry_count + 1 - len(set(closed))
        add_revision(
            session,
            codebook,
            kind=RevisionKind.PUBLISH,
            entry_count=count,
            now=now,
            edit_id=row.edit_id,
            threshold=publication.threshold,
        )
        if publication.threshold is not None:
            codebook.threshold_due = False  # it is that of the keys as they are
        _fill(row, publication, closed)
        mark_published(row, codebook.revision, now)
    return set(opened)


def require_revision(codebook: CodebookRow, base_revision: int) -> None:
    """Check that the codebook is at the revision that an edit was judged against; ``revision_moved``."""
    _require_equal(codebook, base_revision, codebook.revision)


def mark_published(row: EditRow, revision: int, now: datetime) -> None:
    """Close the edit as PUBLISHED at `revision`."""
    row.published_revision = revision
    row.published_at = now
    finish_row(row, EditState.PUBLISHED, now)


def finish_row(row: EditRow, state: EditState, now: datetime) -> None:
    """Take the edit out of the queue."""
    row.state = state
    row.lease_expires_at = None
    row.updated_at = now
    row.finished_at = now


def _require_chain(codebook: CodebookRow, publications: Sequence[Publication]) -> None:
    for revision, publication in enumerate(publications, start=codebook.revision):
        _require_equal(codebook, publication.base_revision, revision)


def _require_equal(codebook: CodebookRow, base_revision: int, revision: int) -> None:
    if base_revision != revision:
        message = (
            f"{codebook_name(codebook)} moved from revision {base_revision} to {revision} "
            "while its edits were made; verify them again."
        )
        raise FailedPrecondition(message, code="revision_moved")


def _named(publication: Publication) -> Iterator[EditId]:
    yield from publication.supersedes
    yield from publication.overlaps
    if publication.alias_of is not None:
        yield publication.alias_of


def _fill(row: EditRow, publication: Publication, superseded: tuple[EditId, ...]) -> None:
    row.artifact = publication.artifact
    row.alias_of = publication.alias_of
    row.supersedes = superseded
    row.overlaps = publication.overlaps
    row.reason_code = publication.reason_code
    row.reason = publication.reason
