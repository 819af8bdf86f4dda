"""Packs: all entries of one update in one file, so that a worker takes them with two large copies.

Whoever builds a pack has verified and parsed the artifacts; the worker parses none of them beside its engine steps.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.core.values import value_rows
from horen_vllm.errors import DataLoss, FailedPrecondition
from horen_vllm.spaces import read_space, space_tensors

_DIGEST_BYTES: Final = 16
_PIECE_BYTES: Final = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRow:
    """One entry of a pack, beside its tensors."""

    edit_id: str
    sequence: int
    """Edit sequence number."""
    artifact: str
    """sha256 of the entry's file, in hex: equal files are equal entries."""
    fingerprint: str
    span: int
    """Answer positions that the value is written at."""
    chunk: int
    """Answer positions in a row that share one vector."""
    rank: int
    """Rank of a LoRA value; 0 for direct vectors."""
    keys: int
    """Number of key rows."""
    values: int
    """Number of value rows."""
    key_digests: tuple[str, ...]
    """Hash of each key's bytes, by which identical keys are found."""
    anchors: tuple[str, ...] = ()
    """Names of the subject, one of which must occur; each as words with single spaces."""
    floor: float | None = None
    """Score up to which the entry does not fire, whatever the threshold; None: the threshold alone decides."""
    radius: float | None = None
    """Distance up to which a GRACE key fires; None: cosine decides."""
    splits: tuple[tuple[str, float], ...] = ()
    """Edits whose radius ends at some distance as long as this entry is there."""


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
    space
        The codebook's fitted routing space, in an update from nothing; else the reader has it already.
    """

    keys: torch.Tensor
    values: torch.Tensor
    rows: tuple[PackRow, ...]
    space: RoutingSpace | None = None


def build_pack(entries: Sequence[tuple[int, str, EntryArtifact]], space: RoutingSpace | None = None) -> EntryPack:
    """Return the pack of (edit sequence number, artifact digest, entry) triples, with the routing space if given.

    Raises
    ------
    FailedPrecondition
        ``wrong_shape``, when an entry's values are not what its span, chunk and rank say, or entries differ in width.
    """
    rows = tuple(_row(sequence, digest, entry) for sequence, digest, entry in entries)
    try:
        keys = torch.cat([entry.keys.float() for _, _, entry in entries]) if entries else torch.empty(0, 0)
        values = torch.cat([entry.values.float() for _, _, entry in entries]) if entries else torch.empty(0, 0)
    except RuntimeError as exc:
        raise FailedPrecondition("the entries of one update differ in width.", code="wrong_shape") from exc
    return EntryPack(keys, values, rows, space)


def encode_pack(pack: EntryPack) -> bytes:
    """Return the file content of `pack`."""
    # A tensor of JSON lines: a reader can take them one by one, which it could not with the file's own header.
    lines = "\n".join(json.dumps(asdict(row)) for row in pack.rows).encode()
    rows = torch.frombuffer(bytearray(lines), dtype=torch.uint8) if lines else torch.empty(0, dtype=torch.uint8)
    tensors = {"keys": pack.keys.contiguous(), "values": pack.values.contiguous(), "rows": rows}
    data: bytes = save(tensors | (space_tensors(pack.space) if pack.space is not None else {}))
    return data


Pace = Callable[[Iterable[bytes]], Iterable[bytes]]
"""Wraps a loop over small pieces of work, for a reader that must not hold up its process."""


def read_pack(path: Path, sha256: str, pace: Pace = iter) -> EntryPack:
    """Read the file that has the content of `encode_pack`, if its hash is `sha256` (hex).

    Parameters
    ----------
    path
        The file; it may be mapped, so it must stay as it is until the pack is no longer used.
    pace
        Wraps the loops over the file's pieces and the rows.

    Raises
    ------
    DataLoss
        ``pack_unreadable``, when the file is missing, has another hash or is not a pack.
    """
    try:
        if _hash(path, pace) != sha256:
            message = f"the pack {path.name} does not have the content that it was announced with."
            raise DataLoss(message, code="pack_unreadable")
        with safe_open(path, framework="pt") as tensors:
            keys, values, rows = (tensors.get_tensor(name) for name in ("keys", "values", "rows"))
            space = read_space(tensors)
        # Line by line: one call that splits them all would hold the interpreter's lock for long.
        return EntryPack(keys, values, _read_rows(io.BytesIO(rows.numpy().tobytes()), pace, keys, values), space)
    except OSError as exc:
        raise DataLoss(f"the pack {path.name} cannot be read: {exc.strerror}.", code="pack_unreadable") from exc
    except (KeyError, TypeError, ValueError, SafetensorError) as exc:
        raise DataLoss(f"{path.name} is not a pack of entries.", code="pack_unreadable") from exc


def _row(sequence: int, digest: str, entry: EntryArtifact) -> PackRow:
    manifest = entry.manifest
    _check_shapes(entry)
    return PackRow(
        edit_id=manifest.edit_id,
        sequence=sequence,
        artifact=digest,
        fingerprint=manifest.fingerprint,
        span=manifest.span,
        chunk=manifest.chunk,
        rank=manifest.rank,
        keys=entry.keys.shape[0],
        values=entry.values.shape[0],
        key_digests=tuple(_digest(key) for key in entry.keys),
        anchors=manifest.anchors,
        floor=manifest.floor,
        radius=manifest.radius,
        splits=manifest.splits,
    )


def _check_shapes(entry: EntryArtifact) -> None:
    manifest = entry.manifest
    if entry.keys.ndim != 2 or entry.keys.shape[0] < 1:
        message = f"entry {manifest.edit_id} has keys {tuple(entry.keys.shape)}; expected one row a key."
        raise FailedPrecondition(message, code="wrong_shape")
    if min(manifest.span, manifest.chunk) < 1 or manifest.rank < 0:
        message = f"entry {manifest.edit_id} has span {manifest.span}, chunk {manifest.chunk}, rank {manifest.rank}."
        raise FailedPrecondition(message, code="wrong_shape")
    rows = _num_values(manifest.span, manifest.chunk, manifest.rank)
    if entry.values.ndim != 2 or entry.values.shape[0] != rows:
        message = f"entry {manifest.edit_id} has values {tuple(entry.values.shape)}; expected {rows} rows."
        raise FailedPrecondition(message, code="wrong_shape")


def _num_values(span: int, chunk: int, rank: int) -> int:
    # Fewer vectors than the span reads would let an entry write its neighbour's.
    return 2 * rank or value_rows(span, chunk)


def _digest(key: torch.Tensor) -> str:
    return hashlib.blake2b(key.float().contiguous().numpy().tobytes(), digest_size=_DIGEST_BYTES).hexdigest()


def _read_row(fields: dict[str, Any]) -> PackRow:
    lists = {name: tuple(fields[name]) for name in ("key_digests", "anchors")}
    return PackRow(**{**fields, **lists, "splits": tuple((edit, radius) for edit, radius in fields["splits"])})


def _hash(path: Path, pace: Pace) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in pace(iter(lambda: file.read(_PIECE_BYTES), b"")):
            digest.update(piece)
    return digest.hexdigest()


def _read_rows(lines: Iterable[bytes], pace: Pace, keys: torch.Tensor, values: torch.Tensor) -> tuple[PackRow, ...]:
    """Refuse rows that contradict the tensors: a reader would copy another entry's rows, or none."""
    rows: dict[str, PackRow] = {}
    num_keys = num_values = 0
    for line in pace(lines):
        row = _read_row(json.loads(line))
        if row.keys < 1 or min(row.span, row.chunk) < 1 or len(row.key_digests) != row.keys or row.edit_id in rows:
            raise ValueError("a row has no key, no span or not one digest a key, or stands twice")
        if row.values < 1 or row.values != _num_values(row.span, row.chunk, row.rank):
            raise ValueError("a row's span does not take as many vectors as it has")
        rows[row.edit_id] = row
        num_keys, num_values = num_keys + row.keys, num_values + row.values
    for tensor, expected in ((keys, num_keys), (values, num_values)):
        if tensor.ndim != 2 or tensor.dtype != torch.float32 or tensor.shape[0] != expected:
            raise ValueError("the rows do not add up to the tensors")
    return tuple(rows.values())
