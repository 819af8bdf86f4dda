"""Entries as files: one safetensors file each.

Knows the file format; does not know where files are kept, who trained the entry or who serves it.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import DataLoss

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class KeyContext:
    """The prompt that one key was taken from."""

    prompt_ids: tuple[int, ...]
    """Token ids of the whole prompt, as the model saw it."""
    span: tuple[int, int]
    """The query span: first token, and the one behind the last."""
    masked: tuple[tuple[int, int], ...] = ()
    """Token ranges of the subject that are left out of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryManifest:
    """What an entry is, beside its tensors."""

    edit_id: str
    fingerprint: str
    """Base model that the keys are valid for."""
    site: str
    value_mode: ValueMode
    span: int
    """Answer positions that the value is written at (>= 1)."""
    chunk: int
    """Answer positions in a row that share one vector (>= 1); the span for `answer`, `last` and a LoRA value."""
    target_ids: tuple[int, ...]
    """Token ids of the target, without the end token."""
    normalised_prompt: str
    """The prompt as the upsert rule compares it (``core.admission.normalise_prompt``)."""
    trained_end: bool
    """Whether the last position of the span predicts the end token."""
    loss: float
    """Mean cross-entropy in nats a token at the stored value."""
    steps: int
    """Optimiser steps taken."""
    rank: int = 0
    """Rank r of a LoRA value (App. G.3); 0 for direct vectors."""
    probe_ids: tuple[int, ...] = ()
    """Token ids of the edit's prompt in its first context, by which a replica asks itself whether the edit holds."""
    contexts: tuple[KeyContext, ...] = ()
    """Where each key row came from, in order; empty in files that do not say."""
    anchors: tuple[str, ...] = ()
    """Names of the subject as words with single spaces (``core.anchors``); empty: the entry fires without."""
    floor: float | None = None
    """Score up to which the entry does not fire whatever the threshold, so that must-not-fire prompts stay silent."""
    radius: float | None = None
    """Distance up to which a GRACE key fires; None: cosine decides."""
    splits: tuple[tuple[str, float], ...] = ()
    """Edits whose radius ends here as long as this entry is there, and at what distance (GRACE's split)."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryArtifact:
    """One entry: keys, values and manifest."""

    keys: torch.Tensor
    """[keys, d_in] float32, unit rows: pre-refinement queries in the codebook's routing space (section 2.3)."""
    values: torch.Tensor
    """[ceil(span / chunk), d_out] float32, added to the site's output; for a LoRA value [2r, d_out]: A^T, then B^T."""
    manifest: EntryManifest

    def __post_init__(self) -> None:
        """Refuse contexts that are not one a key."""
        named = len(self.manifest.contexts)
        if named and named != len(self.keys):
            raise ValueError(f"{named} contexts for {len(self.keys)} keys")


def encode_entry(entry: EntryArtifact) -> bytes:
    """Return the file content of `entry`; equal entries give equal bytes."""
    manifest = json.dumps(asdict(entry.manifest), sort_keys=True)
    tensors = {"keys": entry.keys.float().contiguous(), "values": entry.values.float().contiguous()}
    data: bytes = save(tensors, metadata={"horen": manifest})
    return data


def decode_entry(data: bytes) -> EntryArtifact:
    """Read what `encode_entry` wrote.

    Raises
    ------
    DataLoss
        ``artifact_unreadable``, when the bytes are not an entry of a known format version.
    """
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
        fields: dict[str, Any] = json.loads(header["__metadata__"]["horen"])
        if fields["format_version"] != FORMAT_VERSION:
            message = f"entry has format version {fields['format_version']}; this build reads {FORMAT_VERSION}."
            raise DataLoss(message, code="artifact_unreadable")
        tensors = load(data)
        return EntryArtifact(keys=tensors["keys"], values=tensors["values"], manifest=_manifest(fields))
    except (KeyError, TypeError, ValueError, SafetensorError) as exc:
        message = "the file is not a horen entry."
        raise DataLoss(message, code="artifact_unreadable") from exc


def named_after(entry: EntryArtifact, edit_id: str) -> EntryArtifact:
    """Return an entry as that of the edit by which its codebook knows it.

    That is not always the edit whose training made the file: when that one is retired, an edit that said the same, and
    has no entry of its own, keeps its entry.
    """
    if entry.manifest.edit_id == edit_id:
        return entry
    return replace(entry, manifest=replace(entry.manifest, edit_id=edit_id))


def _manifest(fields: dict[str, Any]) -> EntryManifest:
    mode = ValueMode(fields["value_mode"])
    known: dict[str, Any] = {"value_mode": mode, "contexts": tuple(map(_context, fields.get("contexts", ())))}
    known |= {name: tuple(fields.get(name, ())) for name in ("target_ids", "probe_ids", "anchors")}
    known["splits"] = tuple((str(edit_id), float(radius)) for edit_id, radius in fields.get("splits", ()))
    # What was written before chunks has one vector a position, or one for all.
    chunk = 1 if mode is ValueMode.SEQUENCE and not fields.get("rank") else fields["span"]
    return EntryManifest(**{"chunk": chunk, **fields, **known})


def _context(fields: dict[str, Any]) -> KeyContext:
    masked = tuple((first, last) for first, last in fields.get("masked", ()))
    return KeyContext(tuple(fields["prompt_ids"]), tuple(fields["span"]), masked)
