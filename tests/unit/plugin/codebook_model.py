"""What codebooks must be, as plain dictionaries: the model that `PagedCodebooks` is compared with."""

from dataclasses import dataclass, field

import torch

from horen_vllm.core.match import NO_ENTRY, KeyTable
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.revisions import VALUE_COLUMNS, RevisionView
from tests.unit.plugin.entries import Numbered


@dataclass
class Expected:
    """A revision as the model knows it: its number and its entries by edit id."""

    revision: int
    entries: dict[str, Numbered] = field(default_factory=dict)

    def after(self, revision: int, added: list[Numbered], removed: set[str]) -> "Expected":
        """Return the revision that an update makes of this one."""
        kept = {edit_id: entry for edit_id, entry in self.entries.items() if edit_id not in removed}
        return Expected(revision, kept | {entry.manifest.edit_id: (number, entry) for number, entry in added})


def rows_needed(revisions: list[Expected]) -> tuple[int, int]:
    """Return the key and value rows that these revisions hold together; equal sequence numbers are one entry."""
    entries = {number: entry for expected in revisions for number, entry in expected.entries.values()}
    keys = sum(entry.keys.shape[0] for entry in entries.values())
    return keys, sum(entry.values.shape[0] for entry in entries.values())


def open_table(codebooks: PagedCodebooks, view: RevisionView) -> KeyTable:
    """Return the keys that compete for every request."""
    return codebooks.table(view, view.open, view.sequences)


def check_view(codebooks: PagedCodebooks, view: RevisionView, expected: Expected) -> None:
    """Assert that a view reads exactly the keys and values that were published."""
    store, table = codebooks.store, open_table(codebooks, view)
    assert view.revision == expected.revision
    assert sorted(view.edit_ids) == sorted(expected.entries)
    assert view.value_table.shape == (len(expected.entries) + 1, VALUE_COLUMNS)
    assert view.value_table[-1].tolist() == [NO_ENTRY, 0, 1, 0]
    assert torch.equal(table.keys, store.key_rows(view.layout.width)[view.open.rows])
    for index, edit_id in enumerate(view.edit_ids):
        number, entry = expected.entries[edit_id]
        assert int(table.sequences[index]) == number
        assert torch.equal(table.keys[table.owners == index], entry.keys)
        row, span, chunk, rank = view.value_table[index].tolist()
        assert (span, chunk, rank) == (entry.manifest.span, entry.manifest.chunk, entry.manifest.rank)
        if rank:
            assert torch.equal(store.values[row : row + 2 * rank], entry.values)
            continue
        written = torch.stack([store.values[row + offset // chunk] for offset in range(span)])
        assert torch.equal(written, entry.values.repeat_interleave(entry.manifest.chunk, dim=0)[:span])
