"""One revision of a codebook as the router reads it: which rows are its keys, and what each entry writes."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from horen_vllm.core.anchors import Anchor, AnchorTable
from horen_vllm.core.match import NO_ENTRY
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import REPLACED
from horen_vllm.pack import PackRow
from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.entries import KeyLayout, ResidentEntry
from horen_vllm.plugin.radii import effective_radii
from horen_vllm.plugin.space_shelf import ResidentSpace

VALUE_COLUMNS: Final = 4
"""Columns of `RevisionView.value_table`: first value row, span, chunk, LoRA rank or `REPLACED`."""


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Keys of a revision that are scored together.

    Attributes
    ----------
    rows, owners
        [N] int64: rows of the key buffer, and the index of the entry that owns each.
    run_start
        First row of the keys where `rows` is one ascending run, so that they can be read without gathering
        them; else None. Kept on the host: routing waits for no device.
    """

    rows: torch.Tensor
    owners: torch.Tensor
    run_start: int | None

    def __len__(self) -> int:
        """Count the keys."""
        return self.rows.shape[0]


@dataclass(slots=True)
class RevisionView:
    """One revision on the device.

    Attributes
    ----------
    layout
        How its keys stand in the buffer.
    space
        Its fitted routing space; None for the identity.
    open
        Keys of the entries that compete for every request; of identical ones the newest edit's.
    anchored
        All keys of the entries that compete where one of their anchors occurs.
    names
        Their anchors, of this revision alone; None when there are none.
    sequences
        [E] int64, edit sequence numbers.
    value_table
        [E + 1, VALUE_COLUMNS] int64; the last row stands for `NO_ENTRY` (index -1).
    radii
        [E + 1] float64, the distance below which each entry fires; None where the cosine decides. `host_radii` are
        the same on the host.
    floors
        [E + 1] float64, the score up to which each entry does not fire, whatever the threshold; None where no entry
        has one. `host_floors` are the same on the host, `highest_floor` is their maximum.
    """

    codebook: str
    revision: int
    parameters: MethodParameters
    entries: Mapping[str, ResidentEntry]
    edit_ids: Sequence[str]
    residents: Sequence[ResidentEntry]
    layout: KeyLayout
    space: ResidentSpace | None
    open: KeyGroup
    anchored: KeyGroup
    names: AnchorTable | None
    sequences: torch.Tensor
    value_table: torch.Tensor
    radii: torch.Tensor | None
    host_radii: Sequence[float]
    floors: torch.Tensor | None = None
    host_floors: Sequence[float] = ()
    highest_floor: float = -math.inf
    pins: int = field(default=0)

    @property
    def reads_words(self) -> bool:
        """Whether words are part of a query."""
        return self.space is not None and self.space.space.reads_words

    @property
    def needs_text(self) -> bool:
        """Whether a request's prompt has to be read as text."""
        return self.names is not None or self.reads_words

    def threshold_of(self, entry: int) -> float:
        """Return what the score of an entry has to exceed; a distance counts as a negative score."""
        if self.radii is not None:
            return -self.host_radii[entry]
        bound = self.parameters.anchored_threshold if self.is_anchored(entry) else self.parameters.threshold
        return max(bound, self.host_floors[entry]) if self.host_floors else bound

    def is_anchored(self, entry: int) -> bool:
        """Whether an entry competes only where one of its anchors occurs."""
        return bool(_names(self.residents[entry].row, self.parameters))


def build_view(
    codebook: str,
    revision: int,
    parameters: MethodParameters,
    entries: Mapping[str, ResidentEntry],
    device: torch.device,
    *,
    layout: KeyLayout,
    space: ResidentSpace | None = None,
) -> RevisionView:
    """Return the view of `entries`; made for a thread of its own, it pauses often."""
    newest: dict[str, tuple[int, int, int]] = {}
    anchored_keys: list[tuple[int, int, int]] = []
    names = AnchorTable()
    sequences, table = array("q"), array("q")
    replaces = parameters.value_mode is ValueMode.REPLACE
    for index, entry in enumerate(breathing(entries.values())):
        row = entry.row
        sequences.append(row.sequence)
        table.extend((entry.value_row, row.span, row.chunk, REPLACED if replaces else row.rank))
        if anchors := _names(row, parameters):
            names.add(index, anchors)
            anchored_keys.extend((row.sequence, entry.key_row + offset, index) for offset in range(row.keys))
        else:
            keep_newest(newest, entry, index)
    table.extend((NO_ENTRY, 0, 1, 0))
    floors = _floors(entries)
    radii = () if parameters.radius is None else effective_radii(parameters.radius, entries)
    return RevisionView(
        codebook=codebook,
        revision=revision,
        parameters=parameters,
        entries=entries,
        edit_ids=list(entries),
        residents=list(entries.values()),
        layout=layout,
        space=space,
        open=_group(list(newest.values()), device),
        anchored=_group(anchored_keys, device),
        names=names if len(names) else None,
        sequences=_column(sequences, device),
        value_table=_column(table, device).view(-1, VALUE_COLUMNS),
        radii=torch.tensor(radii, dtype=torch.float64, device=device) if radii else None,
        host_radii=radii,
        floors=torch.tensor(floors, dtype=torch.float64, device=device) if floors else None,
        host_floors=floors,
        highest_floor=max(floors, default=-math.inf),
    )


def keep_newest(newest: dict[str, tuple[int, int, int]], entry: ResidentEntry, index: int) -> None:
    """Of identical keys keep the one of the newer edit: (sequence, key row, index) by digest.

    A matrix product may score equal rows a rounding apart, so the rule that the newer edit wins is kept here.
    """
    for offset, digest in enumerate(entry.row.key_digests):
        held = newest.get(digest)
        if held is None or held[0] <= entry.row.sequence:
            newest[digest] = (entry.row.sequence, entry.key_row + offset, index)


def _floors(entries: Mapping[str, ResidentEntry]) -> Sequence[float]:
    """Return each entry's floor, and one more for no entry; nothing where no entry has one."""
    floors = [entry.row.floor for entry in breathing(entries.values())]
    if all(floor is None for floor in floors):
        return ()
    return [*(-math.inf if floor is None else floor for floor in floors), -math.inf]


def _names(row: PackRow, parameters: MethodParameters) -> tuple[Anchor, ...]:
    """Return the anchors that an entry needs; GRACE knows none."""
    if not parameters.anchors or parameters.radius is not None:
        return ()
    return tuple(tuple(name.split(" ")) for name in row.anchors)


def _group(keys: Sequence[tuple[int, int, int]], device: torch.device) -> KeyGroup:
    key_rows, owners = array("q"), array("q")
    for _, row, owner in breathing(keys):
        key_rows.append(row)
        owners.append(owner)
    rows = _column(key_rows, device)
    is_run = bool(key_rows) and bool((rows.diff() == 1).all())
    return KeyGroup(rows, _column(owners, device), key_rows[0] if is_run else None)


def _column(numbers: "array[int]", device: torch.device) -> torch.Tensor:
    if not numbers:
        return torch.empty(0, dtype=torch.int64, device=device)
    return torch.frombuffer(numbers, dtype=torch.int64).to(device, copy=True)
