"""Files between codebooks, without files: what an export says is handed to an import."""

from collections.abc import Sequence
from dataclasses import dataclass

from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.models import RequestKey
from horen_vllm.registry.portable import ImportedEdit, ImportRecord, PortableEdit, PortableState
from horen_vllm.registry.ports import Registry


@dataclass(frozen=True)
class Book:
    """What a codebook's file says."""

    edits: tuple[PortableEdit, ...]
    threshold: float
    entries: int

    def of(self, state: PortableState) -> list[EditId]:
        return [edit.origin for edit in self.edits if edit.state is state]


def export(registry: Registry, name: CodebookName, revision: int | None = None, *, page: int = 1000) -> Book:
    record = registry.get_revision(name, revision)
    edits: list[PortableEdit] = []
    while found := registry.portable_edits(
        name, record.number, after_sequence=edits[-1].sequence if edits else 0, limit=page
    ):
        edits += found
    return Book(tuple(edits), record.threshold, record.entry_count)


def on_their_way(registry: Registry, name: CodebookName, edits: Sequence[PortableEdit]) -> list[ImportedEdit]:
    known = registry.known_origins(name, [edit.origin for edit in edits])
    return [
        ImportedEdit(
            edit=edit,
            edit_id=known[edit.origin].edit_id if edit.origin in known else new_edit_id(),
            artifact=None if edit.origin in known and not known[edit.origin].wants_entry else edit.artifact,
        )
        for edit in edits
    ]


def bring_in(
    registry: Registry,
    name: CodebookName,
    book: Book,
    *,
    request: RequestKey | None = None,
    validate_only: bool = False,
) -> ImportRecord:
    return registry.import_edits(
        name,
        on_their_way(registry, name, book.edits),
        threshold=book.threshold,
        entries=book.entries,
        request=request,
        validate_only=validate_only,
    )


def active_origins(registry: Registry, name: CodebookName) -> list[EditId]:
    return export(registry, name).of(PortableState.ACTIVE)
