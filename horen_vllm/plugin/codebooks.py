"""Codebooks of one rank: the applied revision of each, the revisions that live requests pin, and moving between them.

A revision is prepared beside the engine's steps and becomes current between two of them by changing one pointer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from horen_vllm.core.match import KeyTable
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition
from horen_vllm.pack import EntryPack
from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.entries import EntryStore, ResidentEntry, RowWriter
from horen_vllm.plugin.revisions import RevisionView, build_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A codebook's way from one revision to another; `base_revision` 0 replaces everything."""

    codebook: str
    base_revision: int
    revision: int
    parameters: MethodParameters
    added: EntryPack
    removed: Sequence[str] = ()


class PagedCodebooks:
    """All codebooks of one rank.

    Parameters
    ----------
    store
        Where their entries stand.
    release
        Called with a revision that nobody needs any more; must end in `free`, on whatever thread.
    """

    def __init__(self, store: EntryStore, release: Callable[[RevisionView], None] | None = None) -> None:
        self.store = store
        self.release = release or self.free
        self._current: dict[str, RevisionView] = {}

    def current(self, codebook: str) -> RevisionView | None:
        """Return the applied revision of a codebook; None when the codebook is not here."""
        return self._current.get(codebook)

    def applied(self) -> dict[str, RevisionView]:
        """Return the applied revision of every codebook."""
        return dict(self._current)

    def pin(self, codebook: str) -> RevisionView | None:
        """Return the applied revision and keep it until `unpin`; None when the codebook is not here."""
        view = self._current.get(codebook)
        if view is not None:
            view.pins += 1
        return view

    def unpin(self, view: RevisionView) -> None:
        """Give one pin back; the last one releases a revision that is no longer current."""
        view.pins -= 1
        if view.pins == 0 and self._current.get(view.codebook) is not view:
            self.release(view)

    def prepare(self, update: Update) -> RevisionView:
        """Write an update's entries into free rows and return the revision, not yet current. May run on any thread.

        Raises
        ------
        FailedPrecondition
            ``revision_gap`` when the codebook is not at the base revision; ``capacity_exhausted`` when the buffers
            are full; ``wrong_shape`` when an entry does not fit this model. Nothing is kept then.
        """
        self._check_base(update.codebook, update.base_revision)
        self.store.check_widths(update.added)
        before = self._current.get(update.codebook)
        resident = before.entries if before is not None else {}
        held: list[ResidentEntry] = []
        try:
            for entry in self._entries(update, resident):
                self.store.retain(entry)
                held.append(entry)
            entries = {entry.row.edit_id: entry for entry in breathing(held)}
            device = self.store.keys.device
            return build_view(update.codebook, update.revision, update.parameters, entries, device)
        except BaseException:
            self.store.release(held)
            raise

    def flip(self, view: RevisionView, base_revision: int) -> None:
        """Make a prepared revision current; FailedPrecondition ``revision_gap`` when its base no longer is."""
        self._check_base(view.codebook, base_revision)
        before = self._current.get(view.codebook)
        self._current[view.codebook] = view
        if before is not None and before.pins == 0:
            self.release(before)

    def drop(self, codebook: str) -> None:
        """Forget a codebook; its revision is released once no request pins it."""
        view = self._current.pop(codebook, None)
        if view is not None and view.pins == 0:
            self.release(view)

    def free(self, view: RevisionView) -> None:
        """Give back the rows of a revision's entries that no other revision has. May run on any thread."""
        self.store.release(breathing(view.entries.values()))

    def table(self, view: RevisionView) -> KeyTable:
        """Return the revision's keys as the matcher takes them, gathered from their rows where they must be."""
        if view.run_start is not None:
            keys = self.store.keys[view.run_start : view.run_start + view.key_rows.shape[0]]
        else:
            keys = self.store.keys[view.key_rows]
        return KeyTable(keys, view.owners, view.sequences)

    def _check_base(self, codebook: str, base_revision: int) -> None:
        before = self._current.get(codebook)
        if base_revision and (before is None or before.revision != base_revision):
            at = before.revision if before else "nothing"
            message = f"{codebook} is at {at}; the update starts from revision {base_revision}."
            raise FailedPrecondition(message, code="revision_gap")

    def _entries(self, update: Update, resident: Mapping[str, ResidentEntry]) -> Iterator[ResidentEntry]:
        """Yield the entries of the new revision, each once: what stays, then what is added."""
        replaced = {row.edit_id for row in breathing(update.added.rows)}.union(update.removed)
        if update.base_revision:
            yield from (entry for edit_id, entry in breathing(resident.items()) if edit_id not in replaced)
        keys, values, key, value = RowWriter(update.added.keys), RowWriter(update.added.values), 0, 0
        for row in breathing(update.added.rows):
            entry = resident.get(row.edit_id)
            # A full reload finds most entries where they are: equal files are equal entries.
            if entry is None or entry.row != row:
                entry = self.store.place(row)
                keys.add(key, entry.key_row, row.keys)
                values.add(value, entry.value_row, row.values)
            yield entry
            key, value = key + row.keys, value + row.values
        self.store.write(keys, values)
