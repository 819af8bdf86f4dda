"""How edits become entries in memory: one revision each."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditState, Publication, RevisionKind
from horen_vllm.testing.memory.revising import add_revision
from horen_vllm.testing.memory.state import Book, Edit, State


def publish_all(state: State, book: Book, batch: Sequence[tuple[Edit, Publication]], now: datetime) -> None:
    """Give each edit of `batch` the codebook's next revision, in order.

    Raises
    ------
    FailedPrecondition
        ``revision_moved``.
    NotFound
        ``unknown_edit``.
    InvalidArgument
        ``invalid_parameter``, for a threshold that is no cosine.
    """
    for revision, (_, publication) in enumerate(batch, start=book.record.revision):
        require_revision(book, publication.base_revision, revision)
    require_edits(state, book, {edit for _, publication in batch for edit in _named(publication)})
    for edit, publication in batch:
        book = _publish(state, book, edit, publication, now)
    state.books[book.record.name] = book


def require_revision(book: Book, base_revision: int, revision: int) -> None:
    """Check that what was judged at `base_revision` is used at the same one; ``revision_moved``."""
    if base_revision != revision:
        message = (
            f"{book.record.name} moved from revision {base_revision} to {revision} "
            "while its edits were made; verify them again."
        )
        raise FailedPrecondition(message, code="revision_moved")


def require_edits(state: State, book: Book, edits: Collection[EditId]) -> None:
    """Check that the codebook has all of `edits`; NotFound ``unknown_edit``."""
    missing = {it for it in edits if it not in state.edits or state.edits[it].record.codebook != book.record.name}
    if missing:
        raise NotFound(f"The codebook has no edit {min(missing)}.", code="unknown_edit")


def published(edit: Edit, revision: int, now: datetime) -> Edit:
    """Return the edit, closed as PUBLISHED at `revision`."""
    record = replace(edit.record, published_revision=revision, published_at=now)
    return finished(replace(edit, record=record), EditState.PUBLISHED, now)


def finished(edit: Edit, state: EditState, now: datetime) -> Edit:
    """Return the edit as nobody works on it any more."""
    record = replace(edit.record, state=state, updated_at=now)
    return replace(edit, record=record, lease_expires_at=None, finished=True)


def _publish(state: State, book: Book, edit: Edit, publication: Publication, now: datetime) -> Book:
    superseded = tuple(it for it in publication.supersedes if it in book.current)
    book = add_revision(
        book,
        (book.current - frozenset(superseded)) | {edit.record.edit_id},
        kind=RevisionKind.PUBLISH,
        now=now,
        edit_id=edit.record.edit_id,
        threshold=publication.threshold,
    )
    record = replace(
        edit.record,
        artifact=publication.artifact,
        alias_of=publication.alias_of,
        supersedes=superseded,
        overlaps=publication.overlaps,
        reason_code=publication.reason_code,
        reason=publication.reason,
    )
    state.put(published(replace(edit, record=record), book.record.revision, now))
    # A new threshold is that of the keys as they are.
    return book if publication.threshold is None else replace(book, threshold_due=False)


def _named(publication: Publication) -> set[EditId]:
    alias = set() if publication.alias_of is None else {publication.alias_of}
    return alias | set(publication.supersedes) | set(publication.overlaps)
