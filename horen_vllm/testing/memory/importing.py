"""Bringing the edits of a file into a codebook in memory: one revision, whatever their number."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditRecord, EditState
from horen_vllm.registry.portable import ImportCounts, ImportedEdit, PortableEdit, PortableState
from horen_vllm.testing.memory.retiring import leave_next, mark_retired, take_back
from horen_vllm.testing.memory.state import Edit, State


class Importer:
    """Collects what a codebook's next revision has after an import.

    Parameters
    ----------
    state
        The draft that it changes; making the revision is left to the caller.
    name
        The codebook.
    now
        The present time.
    """

    def __init__(self, state: State, name: CodebookName, now: datetime) -> None:
        self._state = state
        self._name = name
        self._now = now
        self._before = state.book(name).current
        self._known = {it.origin: it.record.edit_id for it in state.edits_of(name)}
        self._ids: dict[EditId, EditId] = {}
        self._prompts: dict[str, EditId] = {}
        self.members = self._before
        """The edits whose entries the revision has."""
        self.counts = ImportCounts()

    def take(self, edits: Iterable[ImportedEdit]) -> None:
        """Take in the edits of a file, oldest first; FailedPrecondition ``import_conflict``, ``revision_moved``."""
        for item in edits:
            known = self._known.get(item.edit.origin)
            if known is None:
                self._take_new(item)
            else:
                self._ids[item.edit.origin] = known
                self._take_known(item, self._state.edits[known])
        self._check_prompts()

    def _take_known(self, item: ImportedEdit, edit: Edit) -> None:
        state = item.edit.state
        if state is PortableState.RETIRED:
            self._retire(item.edit, edit)
        elif state is PortableState.ACTIVE and edit.record.retired_at is not None:
            self._count(kept_retired=1)
        elif state is PortableState.ACTIVE and edit.record.edit_id in self.members:
            self._count(already_there=1)
        elif state is PortableState.ACTIVE:
            self._bring_back(item, edit)

    def _retire(self, of_file: PortableEdit, edit: Edit) -> None:
        if edit.record.retired_at is not None:
            return
        if not edit.finished:
            take_back(self._state, edit, self._now)
            return
        mark_retired(self._state, edit, self._now, since=min(of_file.retired_at or self._now, self._now))
        left = leave_next(self._state, self.members, edit.record.edit_id, self._now)
        if left is not None:
            self.members = left.members
            self._count(retired=1)

    def _bring_back(self, item: ImportedEdit, edit: Edit) -> None:
        record = edit.record
        if not edit.finished:
            message = f"edit {record.edit_id} of the file is being made here: wait for it, then import the file again."
            raise FailedPrecondition(message, code="import_conflict")
        if record.expires_at is not None and record.expires_at <= self._now:
            mark_retired(self._state, edit, self._now, since=record.expires_at)
            return
        stored = _stored(item)
        # Revisions that have its entry keep it, whatever the file has.
        self._state.put(replace(edit, record=replace(record, artifact=record.artifact or stored, updated_at=self._now)))
        self._claim_prompt(item.edit, record.edit_id)
        self.members |= {record.edit_id}
        self._count(added=1)

    def _take_new(self, item: ImportedEdit) -> None:
        edit = item.edit
        if edit.state is PortableState.INACTIVE:
            return
        if edit.state is PortableState.RETIRED or (edit.expires_at is not None and edit.expires_at <= self._now):
            retired_at = min(edit.retired_at or edit.expires_at or self._now, self._now)
            self._add(item, artifact=None, retired_at=retired_at)
            return
        self._claim_prompt(edit, item.edit_id)
        self._add(item, artifact=_stored(item), retired_at=None)
        self.members |= {item.edit_id}
        self._count(added=1)

    def _add(self, item: ImportedEdit, *, artifact: str | None, retired_at: datetime | None) -> None:
        edit = item.edit
        book = self._state.book(self._name)
        book = self._state.books[self._name] = replace(book, last_sequence=book.last_sequence + 1)
        self._ids[edit.origin] = item.edit_id
        record = EditRecord(
            edit_id=item.edit_id,
            codebook=self._name,
            sequence=book.last_sequence,
            spec=edit.spec,
            state=EditState.PUBLISHED,
            reason_code=None,
            reason=None,
            attempt=0,
            artifact=artifact,
            same_as=None if edit.same_as is None else self._ids.get(edit.same_as),
            alias_of=None if edit.alias_of is None else self._ids.get(edit.alias_of),
            supersedes=tuple(self._ids[origin] for origin in edit.supersedes if origin in self._ids),
            overlaps=(),
            published_revision=None if artifact is None else book.record.revision + 1,
            active=False,
            created_at=self._now,
            updated_at=self._now,
            published_at=None if artifact is None else self._now,
            expires_at=edit.expires_at,
            retired_at=retired_at,
        )
        self._state.put(Edit(record=record, origin=edit.origin, finished=True))

    def _claim_prompt(self, edit: PortableEdit, edit_id: EditId) -> None:
        other = self._prompts.setdefault(normalise_prompt(edit.spec.prompt), edit_id)
        if other != edit_id:
            raise _conflict(edit.spec.prompt, other)

    def _check_prompts(self) -> None:
        """Refuse what came in with the prompt of an entry that was there and stays, be it as another edit's."""
        for edit_id in self.members:
            prompt = self._state.edits[edit_id].record.spec.prompt
            if self._prompts.get(normalise_prompt(prompt), edit_id) != edit_id:
                raise _conflict(prompt, edit_id)

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})


def _stored(item: ImportedEdit) -> str:
    if item.artifact is None:
        message = f"edit {item.edit_id} changed while the file was read: import it again."
        raise FailedPrecondition(message, code="revision_moved")
    return item.artifact


def _conflict(prompt: str, edit_id: EditId) -> FailedPrecondition:
    shown = prompt if len(prompt) <= 80 else f"{prompt[:77]}..."
    message = f"the file has an entry for {shown!r}, for which edit {edit_id} is active: retire one of them first."
    return FailedPrecondition(message, code="import_conflict")
