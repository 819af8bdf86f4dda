"""One revision of a codebook as the router reads it: which rows are its keys, and what each entry writes."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.core.presets import MethodParameters
from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.entries import ResidentEntry

VALUE_COLUMNS: Final = 4
"""Columns of `RevisionView.value_table`: first value row, span, chunk, LoRA rank."""


@dataclass(slots=True)
class RevisionView:
    """One revision on the device.

    Attributes
    ----------
    key_rows, owners
        [N] int64: rows of the key buffer, and the index of the entry that owns each.
    run_start
        First row of the keys where `key_rows` is one ascending run, so that they can be read without gathering
        them; else None. Kept on the host: routing waits for no device.
    sequences
        [E] int64, edit sequence numbers.
    value_table
        [E + 1, VALUE_COLUMNS] int64; the last row stands for `NO_ENTRY` (index -1).
    """

    codebook: str
    revision: int
    parameters: MethodParameters
    entries: Mapping[str, ResidentEntry]
    edit_ids: Sequence[str]
    key_rows: torch.Tensor
    owners: torch.Tensor
    run_start: int | None
    sequences: torch.Tensor
    value_table: torch.Tensor
    pins: int = field(default=0)


def build_view(
    codebook: str,
    revision: int,
    parameters: MethodParameters,
    entries: Mapping[str, ResidentEntry],
    device: torch.device,
) -> RevisionView:
    """Return the view of `entries`; made for a thread of its own, it pauses often."""
    newest: dict[str, tuple[int, int, int]] = {}
    sequences, table = array("q"), array("q")
    for index, entry in enumerate(breathing(entries.values())):
        sequences.append(entry.row.sequence)
        table.extend((entry.value_row, entry.row.span, entry.row.chunk, entry.row.rank))
        _keep_newest(newest, entry, index)
    table.extend((NO_ENTRY, 0, 1, 0))
    key_rows, owners = array("q"), array("q")
    for _, row, owner in breathing(newest.values()):
        key_rows.append(row)
        owners.append(owner)
    rows = _column(key_rows, device)
    return RevisionView(
        codebook=codebook,
        revision=revision,
        parameters=parameters,
        entries=entries,
        edit_ids=list(entries),
        key_rows=rows,
        owners=_column(owners, device),
        run_start=key_rows[0] if key_rows and bool((rows.diff() == 1).all()) else None,
        sequences=_column(sequences, device),
        value_table=_column(table, device).view(-1, VALUE_COLUMNS),
    )


def _keep_newest(newest: dict[str, tuple[int, int, int]], entry: ResidentEntry, index: int) -> None:
    """Of identical keys keep the one of the newer edit.

    A matrix product may score equal rows a rounding apart, so the rule that the newer edit wins is kept here.
    """
    for offset, digest in enumerate(entry.row.key_digests):
        held = newest.get(digest)
        if held is None or held[0] <= entry.row.sequence:
            newest[digest] = (entry.row.sequence, entry.key_row + offset, index)


def _column(numbers: "array[int]", device: torch.device) -> torch.Tensor:
    if not numbers:
        return torch.empty(0, dtype=torch.int64, device=device)
    return torch.frombuffer(numbers, dtype=torch.int64).to(device, copy=True)
