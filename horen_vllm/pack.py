"""Packs: all entries of one update in one file, so that a worker takes them with two large copies.

Whoever builds a pack has verified and parsed the artifacts; the worker parses none of them beside its engine steps.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.presets import ValueMode
from horen_vllm.core.values import value_rows
from horen_vllm.errors import DataLoss, FailedPrecondition

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRow:
    """One entry of a pack, beside its tensors."""

    edit_id: str
    sequence: int
    """Edit sequence number."""
    artifact: str
    """sha256 of the entry's file, in hex: equal files are equal entries."""
    fingerprint: str
    value_mode: ValueMode
    span: int
    rank: int
    """Rank of a LoRA value; 0 for direct vectors."""
    keys: int
    """Number of key rows."""
    values: int
    """Number of value rows."""
    key_digests: tuple[str, ...]
    """Hash of each key's bytes, by which identical keys are found."""


@dataclass(frozen=True, slots=True)
class EntryPack:
    """Entries of an update.

    Attributes
    ----------
    keys
        [K, d_in] float32, all entries' keys in the order of `rows`.
    values
        [V, d_out] float32, likewise.
    rows
        One an entry.
    """

    keys: torch.Tensor
    values: torch.Tensor
    rows: tuple[PackRow, ...]


def build_pack(entries: Sequence[tuple[int, str, EntryArtifact]]) -> EntryPack:
    """Return the pack of (edit sequence number, artifact digest, entry) triples.

    Raises
    ------
    FailedPrecondition
        ``wrong_shape``, when an entry's values are not what its mode, span and rank say, or entries differ in width.
    """
    rows = tuple(_row(sequence, digest, entry) for sequence, digest, entry in entries)
    try:
        keys = torch.cat([entry.keys.float() for _, _, entry in entries]) if entries else torch.empty(0, 0)
        values = torch.cat([entry.values.float() for _, _, entry in entries]) if entries else torch.empty(0, 0)
    except RuntimeError as exc:
        raise FailedPrecondition("the entries of one update differ in width.", code="wrong_shape") from exc
    return EntryPack(keys, values, rows)


def encode_pack(pack: EntryPack) -> bytes:
    """Return the file content of `pack`."""
    rows = json.dumps([asdict(row) for row in pack.rows])
    data: bytes = save({"keys": pack.keys, "values": pack.values}, metadata={"horen_pack": rows})
    return data


def decode_pack(data: bytes) -> EntryPack:
    """Read what `encode_pack` wrote; DataLoss ``pack_unreadable`` when the bytes are something else."""
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
        rows = tuple(_read_row(fields) for fields in json.loads(header["__metadata__"]["horen_pack"]))
        tensors = load(data)
        return _checked(EntryPack(tensors["keys"], tensors["values"], rows))
    except (KeyError, TypeError, ValueError, SafetensorError) as exc:
        raise DataLoss("the file is not a pack of entries.", code="pack_unreadable") from exc


def _row(sequence: int, digest: str, entry: EntryArtifact) -> PackRow:
    manifest = entry.manifest
    _check_shapes(entry)
    return PackRow(
        edit_id=manifest.edit_id,
        sequence=sequence,
        artifact=digest,
        fingerprint=manifest.fingerprint,
        value_mode=manifest.value_mode,
        span=manifest.span,
        rank=manifest.rank,
        keys=entry.keys.shape[0],
        values=entry.values.shape[0],
        key_digests=tuple(_digest(key) for key in entry.keys),
    )


def _check_shapes(entry: EntryArtifact) -> None:
    manifest = entry.manifest
    if entry.keys.ndim != 2 or entry.keys.shape[0] < 1:
        message = f"entry {manifest.edit_id} has keys {tuple(entry.keys.shape)}; expected one row a key."
        raise FailedPrecondition(message, code="wrong_shape")
    # Fewer vectors than the span reads would let an entry write its neighbour's.
    rows = 2 * manifest.rank or value_rows(manifest.value_mode, manifest.span)
    if manifest.span < 1 or manifest.rank < 0 or entry.values.ndim != 2 or entry.values.shape[0] != rows:
        message = f"entry {manifest.edit_id} has values {tuple(entry.values.shape)}; expected {rows} rows."
        raise FailedPrecondition(message, code="wrong_shape")


def _digest(key: torch.Tensor) -> str:
    return hashlib.blake2b(key.float().contiguous().numpy().tobytes(), digest_size=_DIGEST_BYTES).hexdigest()


def _read_row(fields: dict[str, Any]) -> PackRow:
    known = {"value_mode": ValueMode(fields["value_mode"]), "key_digests": tuple(fields["key_digests"])}
    return PackRow(**{**fields, **known})


def _checked(pack: EntryPack) -> EntryPack:
    # A worker copies by these numbers: a short slice would be broadcast over more rows than it has.
    totals = (sum(row.keys for row in pack.rows), sum(row.values for row in pack.rows))
    if (pack.keys.shape[0], pack.values.shape[0]) != totals or {pack.keys.ndim, pack.values.ndim} != {2}:
        raise ValueError("the rows do not add up to the tensors")
    if {pack.keys.dtype, pack.values.dtype} != {torch.float32}:
        raise ValueError("the tensors are not float32")
    if any(row.keys < 1 or row.values < 1 or len(row.key_digests) != row.keys for row in pack.rows):
        raise ValueError("a row has no keys, no values, or keys without a digest")
    if len({row.edit_id for row in pack.rows}) != len(pack.rows):
        raise ValueError("an edit has two entries")
    return pack
