"""Bringing the edits of a file into a codebook, in SQL: one revision, whatever their number.

An edit whose origin is known here keeps its id and its place. Whether it was retired here or there, it stays retired.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import EditId
from horen_vllm.registry.artifact_register import require_live
from horen_vllm.registry.models import EditState
from horen_vllm.registry.portable import ImportCounts, ImportedEdit, PortableEdit, PortableState
from horen_vllm.registry.retiring import leave_next, take_back
from horen_vllm.registry.revisioning import find_open_entries, open_entry
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow

T = TypeVar("T")

BATCH: Final = 500
"""Edits that are looked up, and stored, together."""


class Importer:
    """Puts edits into a codebook's next revision, which the caller makes.

    Parameters
    ----------
    session
        Of a writing transaction.
    codebook
        Its row, locked.
    now
        The present time.
    """

    def __init__(self, session: Session, codebook: CodebookRow, now: datetime) -> None:
        self._session = session
        self._codebook = codebook
        self._now = now
        self._next = codebook.revision + 1
        self._ids: dict[EditId, str] = {}
        self._prompts: dict[str, str] = {}
        self._heirs: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self._rows: list[dict[str, Any]] = []
        self._entries: list[dict[str, Any]] = []
        self.counts = ImportCounts()
        self.fewer = 0
        """Entries by which those that were there became fewer."""

    def take(self, edits: Iterable[ImportedEdit]) -> None:
        """Take in the edits of a file, oldest first.

        Raises
        ------
        FailedPrecondition
            ``import_conflict``, when another active edit has the prompt of an entry that would come in, or an edit of
            the file is being made here; ``revision_moved``, when an edit changed since its entry was stored.
        """
        for batch in _batches(edits, BATCH):
            self._take_batch(batch)
        self._check_prompts()

    def _take_batch(self, batch: Sequence[ImportedEdit]) -> None:
        require_live(self._session, [item.artifact for item in batch if item.artifact is not None])
        origins = [item.edit.origin for item in batch]
        query = select(EditRow).where(EditRow.codebook_id == self._codebook.id, EditRow.origin.in_(origins))
        known = {row.origin: row for row in self._session.scalars(query.with_for_update())}
        active = find_open_entries(self._session, [EditId(row.edit_id) for row in known.values()])
        self._kept = self._in_revisions([row.edit_id for row in known.values()])
        for item in batch:
            row = known.get(item.edit.origin)
            if row is None:
                self._take_new(item)
            else:
                self._ids[item.edit.origin] = row.edit_id
                self._take_known(item, row, active=row.edit_id in active or row.edit_id in self._heirs)
        self._store()

    def _in_revisions(self, edits: Sequence[str]) -> frozenset[str]:
        """Return those of `edits` whose entries some revision that is kept has."""
        query = select(MembershipRow.edit_id).where(MembershipRow.edit_id.in_(edits)).distinct()
        return frozenset(self._session.scalars(query)) if edits else frozenset()

    def _take_known(self, item: ImportedEdit, row: EditRow, *, active: bool) -> None:
        state = item.edit.state
        if state is PortableState.RETIRED:
            self._retire(item.edit, row, active=active)
        elif state is PortableState.ACTIVE and row.retired_at is not None:
            self._count(kept_retired=1)
        elif state is PortableState.ACTIVE and active:
            self._count(already_there=1)
        elif state is PortableState.ACTIVE:
            self._bring_back(item, row)

    def _retire(self, edit: PortableEdit, row: EditRow, *, active: bool) -> None:
        if row.retired_at is not None:
            return
        if row.finished_at is None:
            take_back(self._session, row, self._now)
            return
        row.retired_at, row.updated_at = min(edit.retired_at or self._now, self._now), self._now
        left = leave_next(self._session, self._codebook, row, self._now) if active else None
        if left is not None:
            self._count(retired=1)
            self._heirs |= {left.heir} if left.heir else set()
            self.fewer += left.heir is None

    def _bring_back(self, item: ImportedEdit, row: EditRow) -> None:
        if row.finished_at is None:
            message = f"edit {row.edit_id} of the file is being made here: wait for it, then import the file again."
            raise FailedPrecondition(message, code="import_conflict")
        if row.expires_at is not None and row.expires_at <= self._now:
            row.retired_at, row.updated_at = row.expires_at, self._now
            return
        stored = _stored(item)
        # Revisions that have its entry keep it, whatever the file has.
        row.artifact = row.artifact if row.edit_id in self._kept else stored
        row.updated_at = self._now
        self._claim_prompt(item.edit, row.edit_id)
        open_entry(self._session, self._codebook, row.edit_id)
        self._count(added=1)

    def _take_new(self, item: ImportedEdit) -> None:
        edit = item.edit
        expired = edit.expires_at is not None and edit.expires_at <= self._now
        if edit.state is PortableState.INACTIVE:
            return
        if edit.state is PortableState.RETIRED or expired:
            retired_at = min(edit.retired_at or edit.expires_at or self._now, self._now)
            self._add_row(item, artifact=None, retired_at=retired_at)
            return
        self._claim_prompt(edit, item.edit_id)
        self._add_row(item, artifact=_stored(item), retired_at=None)
        entry = {"codebook_id": self._codebook.id, "edit_id": item.edit_id, "from_revision": self._next}
        self._entries.append(entry)
        self._count(added=1)

    def _add_row(self, item: ImportedEdit, *, artifact: str | None, retired_at: datetime | None) -> None:
        edit, spec = item.edit, item.edit.spec
        self._codebook.last_sequence += 1
        self._ids[edit.origin] = item.edit_id
        # Of the edits that this one refers to, those that did not come along are left out.
        self._rows.append(
            {
                "edit_id": item.edit_id,
                "origin": edit.origin,
                "codebook_id": self._codebook.id,
                "sequence": self._codebook.last_sequence,
                "request_id": None,
                "prompt": spec.prompt,
                "target": spec.target,
                "subject": spec.subject,
                "aliases": spec.aliases,
                "paraphrases": spec.paraphrases,
                "must_not_fire": spec.must_not_fire,
                "state": EditState.PUBLISHED,
                "attempt": 0,
                "artifact": artifact,
                "alias_of": None if edit.alias_of is None else self._ids.get(edit.alias_of),
                "same_as": None if edit.same_as is None else self._ids.get(edit.same_as),
                "supersedes": tuple(self._ids[origin] for origin in edit.supersedes if origin in self._ids),
                "overlaps": (),
                "published_revision": None if artifact is None else self._next,
                "published_at": None if artifact is None else self._now,
                "created_at": self._now,
                "updated_at": self._now,
                "finished_at": self._now,
                "expires_at": edit.expires_at,
                "retired_at": retired_at,
            }
        )

    def _store(self) -> None:
        self._session.flush()
        if self._rows:
            self._session.execute(insert(EditRow), self._rows)
            self._rows.clear()
        if self._entries:
            self._session.execute(insert(MembershipRow), self._entries)
            self._entries.clear()

    def _claim_prompt(self, edit: PortableEdit, edit_id: str) -> None:
        prompt = normalise_prompt(edit.spec.prompt)
        other = self._prompts.setdefault(prompt, edit_id)
        if other != edit_id:
            raise _conflict(edit.spec.prompt, other)

    def _check_prompts(self) -> None:
        """Refuse what came in with the prompt of an entry that was there and stays, be it as another edit's."""
        if not self._prompts:
            return
        there = (
            select(EditRow.edit_id, EditRow.prompt)
            .join(MembershipRow, MembershipRow.edit_id == EditRow.edit_id)
            .where(MembershipRow.codebook_id == self._codebook.id, MembershipRow.to_revision.is_(None))
        )
        for edit_id, prompt in self._session.execute(there).yield_per(BATCH):
            if self._prompts.get(normalise_prompt(prompt), edit_id) != edit_id:
                raise _conflict(prompt, edit_id)

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})


def _stored(item: ImportedEdit) -> str:
    if item.artifact is None:
        message = f"edit {item.edit_id} changed while the file was read: import it again."
        raise FailedPrecondition(message, code="revision_moved")
    return item.artifact


def _conflict(prompt: str, edit_id: str) -> FailedPrecondition:
    shown = prompt if len(prompt) <= 80 else f"{prompt[:77]}..."
    message = f"the file has an entry for {shown!r}, for which edit {edit_id} is active: retire one of them first."
    return FailedPrecondition(message, code="import_conflict")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
