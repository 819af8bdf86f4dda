"""Codebooks on the device: entries in paged, preallocated buffers, revisions as lists of entries, pins.

An entry's rows are written once and shared by every revision that contains it; they are freed when the last
revision that has it is gone, and a revision stays while a request that was admitted under it is alive.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.match import NO_ENTRY, KeyTable
from horen_vllm.core.paging import RowAllocator
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.values import value_rows, value_stride
from horen_vllm.errors import FailedPrecondition


@dataclass(slots=True)
class ResidentEntry:
    """An entry whose keys and values stand in the buffers."""

    edit_id: str
    sequence: int
    key_row: int
    key_digests: tuple[bytes, ...]
    """Hash of each key's bytes, by which identical keys are found."""
    value_row: int
    span: int
    stride: int
    references: int = 0


@dataclass(slots=True)
class RevisionView:
    """One revision as the router reads it.

    `key_rows` [N] and `owners` [N] list the keys; `sequences`, `value_rows`, `spans` and `strides` [E + 1] are
    indexed by entry, and their last element stands for `NO_ENTRY` (index -1).
    """

    codebook: str
    revision: int
    parameters: MethodParameters
    entries: Mapping[str, ResidentEntry]
    edit_ids: Sequence[str]
    key_rows: torch.Tensor
    owners: torch.Tensor
    sequences: torch.Tensor
    value_rows: torch.Tensor
    spans: torch.Tensor
    strides: torch.Tensor
    pins: int = field(default=0)


class PagedCodebooks:
    """All codebooks of one rank.

    Parameters
    ----------
    d_in, d_out
        Widths of the site's input (on this rank) and output.
    num_keys, num_values
        Rows of the key buffer (float32) and of the value buffer (`dtype`).
    """

    def __init__(
        self, *, d_in: int, d_out: int, num_keys: int, num_values: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = torch.zeros(num_keys, d_in, dtype=torch.float32, device=device)
        self.values = torch.zeros(num_values, d_out, dtype=dtype, device=device)
        self._key_rows = RowAllocator(num_keys)
        self._value_rows = RowAllocator(num_values)
        self._current: dict[str, RevisionView] = {}

    def current(self, codebook: str) -> RevisionView | None:
        """Return the applied revision of a codebook; None when the codebook is not here."""
        return self._current.get(codebook)

    def applied(self) -> dict[str, int]:
        """Return the applied revision number of every codebook."""
        return {name: view.revision for name, view in self._current.items()}

    def pin(self, codebook: str) -> RevisionView | None:
        """Return the applied revision and keep it until `unpin`; None when the codebook is not here."""
        view = self._current.get(codebook)
        if view is not None:
            view.pins += 1
        return view

    def unpin(self, view: RevisionView) -> None:
        """Give one pin back; the last one frees a revision that is no longer current."""
        view.pins -= 1
        if view.pins == 0 and self._current.get(view.codebook) is not view:
            self._release(view)

    def apply(
        self,
        codebook: str,
        *,
        base_revision: int,
        revision: int,
        parameters: MethodParameters,
        added: Sequence[tuple[int, EntryArtifact]],
        removed: Sequence[str],
    ) -> None:
        """Move a codebook to `revision` in one go; on any error it stays where it was.

        `added` pairs edit sequence numbers with entries; `base_revision` 0 replaces everything.

        Raises
        ------
        FailedPrecondition
            ``revision_gap`` when the codebook is not at `base_revision`; ``capacity_exhausted`` when the buffers
            are full; ``wrong_shape`` when an entry does not fit this model.
        """
        before = self._current.get(codebook)
        if base_revision and (before is None or before.revision != base_revision):
            at = before.revision if before else "nothing"
            message = f"{codebook} is at {at}; the update starts from revision {base_revision}."
            raise FailedPrecondition(message, code="revision_gap")
        kept = {} if before is None or base_revision == 0 else dict(before.entries)
        for edit_id in removed:
            kept.pop(edit_id, None)
        fresh = self._load(added)
        try:
            view = self._view(codebook, revision, parameters, kept | {entry.edit_id: entry for entry in fresh})
        except BaseException:
            self._free_all(fresh)
            raise
        for entry in view.entries.values():
            entry.references += 1
        self._current[codebook] = view
        if before is not None and before.pins == 0:
            self._release(before)

    def drop(self, codebook: str) -> None:
        """Forget a codebook; its revision is freed once no request pins it."""
        view = self._current.pop(codebook, None)
        if view is not None and view.pins == 0:
            self._release(view)

    def table(self, view: RevisionView) -> KeyTable:
        """Return the revision's keys, gathered from their pages, as the matcher takes them."""
        return KeyTable(self.keys[view.key_rows], view.owners, view.sequences[:NO_ENTRY])

    def _load(self, added: Sequence[tuple[int, EntryArtifact]]) -> list[ResidentEntry]:
        fresh: list[ResidentEntry] = []
        try:
            fresh.extend(self._place(sequence, artifact) for sequence, artifact in added)
        except BaseException:
            self._free_all(fresh)
            raise
        return fresh

    def _place(self, sequence: int, artifact: EntryArtifact) -> ResidentEntry:
        keys, values = artifact.keys, artifact.values
        self._check_shapes(artifact)
        key_row = self._key_rows.allocate(keys.shape[0])
        try:
            value_row = self._value_rows.allocate(values.shape[0])
        except FailedPrecondition:
            self._key_rows.free(key_row)
            raise
        self.keys[key_row : key_row + keys.shape[0]].copy_(keys)
        self.values[value_row : value_row + values.shape[0]].copy_(values)
        manifest = artifact.manifest
        return ResidentEntry(
            edit_id=manifest.edit_id,
            sequence=sequence,
            key_row=key_row,
            key_digests=tuple(hashlib.blake2b(key.float().numpy().tobytes()).digest() for key in keys),
            value_row=value_row,
            span=manifest.span,
            stride=value_stride(manifest.value_mode),
        )

    def _check_shapes(self, artifact: EntryArtifact) -> None:
        keys, values, manifest = artifact.keys, artifact.values, artifact.manifest
        # Fewer vectors than the span reads would let an entry write its neighbour's.
        expected = (value_rows(manifest.value_mode, manifest.span), *self.values.shape[1:])
        if keys.ndim != 2 or keys.shape[0] < 1 or keys.shape[1:] != self.keys.shape[1:]:
            message = f"entry {manifest.edit_id} has keys {tuple(keys.shape)}; the site is {self.keys.shape[1]} wide."
            raise FailedPrecondition(message, code="wrong_shape")
        if manifest.span < 1 or values.shape != expected:
            message = f"entry {manifest.edit_id} has values {tuple(values.shape)}, expected {expected}."
            raise FailedPrecondition(message, code="wrong_shape")

    def _view(
        self, codebook: str, revision: int, parameters: MethodParameters, entries: dict[str, ResidentEntry]
    ) -> RevisionView:
        ordered = sorted(entries.values(), key=lambda entry: entry.sequence)
        owned = _resolve_identical(ordered)
        return RevisionView(
            codebook=codebook,
            revision=revision,
            parameters=parameters,
            entries=entries,
            edit_ids=[entry.edit_id for entry in ordered],
            key_rows=self._column([row for row, _ in owned]),
            owners=self._column([owner for _, owner in owned]),
            sequences=self._column([*(entry.sequence for entry in ordered), NO_ENTRY]),
            value_rows=self._column([*(entry.value_row for entry in ordered), NO_ENTRY]),
            spans=self._column([*(entry.span for entry in ordered), 0]),
            strides=self._column([*(entry.stride for entry in ordered), 0]),
        )

    def _column(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.keys.device)

    def _free_all(self, entries: Sequence[ResidentEntry]) -> None:
        for entry in entries:
            self._free(entry)

    def _release(self, view: RevisionView) -> None:
        for entry in view.entries.values():
            entry.references -= 1
            if entry.references == 0:
                self._free(entry)

    def _free(self, entry: ResidentEntry) -> None:
        self._key_rows.free(entry.key_row)
        self._value_rows.free(entry.value_row)


def _resolve_identical(ordered: Sequence[ResidentEntry]) -> list[tuple[int, int]]:
    """Return (key row, entry index) pairs without the older ones of identical keys.

    A matrix product may score equal rows a rounding apart, so the rule that the newer edit wins is kept here.
    """
    newest: dict[bytes, tuple[int, int]] = {}
    for index, entry in enumerate(ordered):
        newest |= {digest: (entry.key_row + key, index) for key, digest in enumerate(entry.key_digests)}
    return list(newest.values())
