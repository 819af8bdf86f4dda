"""The editor's view of a codebook: the entries of one revision, read from artifacts, and their key table.

Knows artifacts and the key table; does not know the registry's store, the model or how values are trained.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from horen_vllm.artifact import ArtifactFolder, EntryArtifact, decode_entry
from horen_vllm.core.admission import Existing
from horen_vllm.core.match import KeyTable
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EntryRef


@dataclass(frozen=True)
class _Keys:
    """The keys of one entry and what names each of them exactly."""

    rows: torch.Tensor
    """[k, d_in] float32."""
    sequence: int

    @cached_property
    def names(self) -> tuple[bytes, ...]:
        """Return a hash of each key's bits."""
        return tuple(hashlib.blake2b(row.data, digest_size=16).digest() for row in self.rows.numpy())


@dataclass(frozen=True)
class Entry:
    """An entry of a revision with its tensors."""

    ref: EntryRef
    artifact: EntryArtifact

    @cached_property
    def keys(self) -> _Keys:
        """Return its keys for a table."""
        return _Keys(self.artifact.keys, self.ref.sequence)

    def as_existing(self) -> Existing:
        """Return what admission compares a new edit with."""
        manifest = self.artifact.manifest
        return Existing(self.ref.edit_id, self.ref.sequence, manifest.normalised_prompt, tuple(manifest.target_ids))


@dataclass(frozen=True, slots=True)
class CodebookState:
    """All entries of one revision, by sequence."""

    revision: int
    entries: tuple[Entry, ...] = ()

    def edit_ids(self, indexes: Sequence[int]) -> tuple[EditId, ...]:
        """Return the edits that made the entries at `indexes`."""
        return tuple(self.entries[index].ref.edit_id for index in indexes)

    def key_table(self, d_in: int) -> KeyTable:
        """Return the table of all keys, owners indexing `entries`; `d_in` is the width of an empty one."""
        return _table([entry.keys for entry in self.entries], d_in)

    def key_table_with(self, keys: torch.Tensor, sequence: int, without: Collection[int] = ()) -> tuple[KeyTable, int]:
        """Return the table as it would be with a new entry, and that entry's index in it.

        Parameters
        ----------
        keys
            [k, d_in] float32 keys of the new entry.
        sequence
            Its edit's sequence number.
        without
            Indexes of entries that it replaces.
        """
        kept = [entry.keys for index, entry in enumerate(self.entries) if index not in without]
        return _table([*kept, _Keys(keys, sequence)], keys.shape[1]), len(kept)


class CodebookCache:
    """The last state read of each codebook; a newer revision re-reads only the artifacts that it lacks.

    Parameters
    ----------
    artifacts
        Where the entries' files are.
    """

    def __init__(self, artifacts: ArtifactFolder) -> None:
        self._artifacts = artifacts
        self._states: dict[CodebookName, CodebookState] = {}

    def load(self, name: CodebookName, revision: int, refs: Sequence[EntryRef]) -> CodebookState:
        """Return the state of a revision with these entries.

        Raises
        ------
        NotFound, DataLoss
            As `ArtifactFolder.read` and `decode_entry`.
        """
        known = self._states.get(name, CodebookState(0)).entries
        by_digest = {entry.ref.artifact: entry.artifact for entry in known}
        entries = [Entry(ref, by_digest.get(ref.artifact) or self._read(ref)) for ref in refs]
        state = CodebookState(revision, tuple(entries))
        self._states[name] = state
        return state

    def _read(self, ref: EntryRef) -> EntryArtifact:
        return decode_entry(self._artifacts.read(ref.artifact))


def _table(entries: Sequence[_Keys], d_in: int) -> KeyTable:
    # Equal keys need not score equal to the last bit in a matrix product, so only the newest entry keeps its own.
    newest: dict[bytes, int] = {}
    for index in sorted(range(len(entries)), key=lambda index: entries[index].sequence):
        newest.update(dict.fromkeys(entries[index].names, index))
    rows, owners = [torch.empty(0, d_in)], []
    for index, entry in enumerate(entries):
        kept = [row for row, name in enumerate(entry.names) if newest[name] == index]
        rows.append(entry.rows if len(kept) == len(entry.names) else entry.rows[kept])
        owners += [index] * len(kept)
    sequences = [entry.sequence for entry in entries]
    return KeyTable(
        torch.cat(rows), torch.tensor(owners, dtype=torch.int64), torch.tensor(sequences, dtype=torch.int64)
    )
