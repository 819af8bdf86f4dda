"""Entries that nobody trained, for benchmarks that ask what a codebook costs and not what it answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.core.values import value_chunk, value_rows, value_span
from horen_vllm.ids import EditId
from horen_vllm.pack import build_pack, encode_pack
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.portable import PortableEdit, PortableState


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryForm:
    """What the entries of a made codebook have in common."""

    fingerprint: str
    site: str
    mode: ValueMode
    span: int
    chunk: int
    rank: int = 0

    @classmethod
    def of(cls, parameters: MethodParameters, target_tokens: int, *, fingerprint: str, site: str) -> "EntryForm":
        """Return the form that training gives an entry with a target of so many tokens."""
        span = value_span(target_tokens, parameters)
        return cls(
            fingerprint=fingerprint,
            site=site,
            mode=parameters.value_mode,
            span=span,
            chunk=value_chunk(span, parameters),
            rank=parameters.rank,
        )

    @property
    def value_rows(self) -> int:
        """Stored vectors of an entry: one a chunk, or A^T and B^T."""
        return 2 * self.rank or value_rows(self.span, self.chunk)

    def entry(self, edit_id: str, keys: torch.Tensor, values: torch.Tensor) -> EntryArtifact:
        """Return an entry of keys [k, width] and values [value_rows, d_out]; it has no prompt to be asked by."""
        manifest = EntryManifest(
            edit_id=edit_id,
            fingerprint=self.fingerprint,
            site=self.site,
            value_mode=self.mode,
            span=self.span,
            chunk=self.chunk,
            rank=self.rank,
            target_ids=(1,),
            normalised_prompt=edit_id,
            trained_end=False,
            loss=0.0,
            steps=0,
        )
        return EntryArtifact(keys=keys, values=values, manifest=manifest)


def write_pack(
    path: Path, entries: Sequence[EntryArtifact], *, first: int = 0, space: RoutingSpace | None = None
) -> str:
    """Write the pack of entries whose edits are numbered from `first`, and return its sha256 in hex."""
    numbered = [(first + place, str(first + place), entry) for place, entry in enumerate(entries)]
    data = encode_pack(build_pack(numbered, space))
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def active_edit(edit_id: EditId, sequence: int, spec: EditSpec, artifact: str) -> PortableEdit:
    """Return an edit that is active, as a codebook's file has it."""
    return PortableEdit(
        origin=edit_id,
        edit_id=edit_id,
        sequence=sequence,
        spec=spec,
        state=PortableState.ACTIVE,
        artifact=artifact,
        alias_of=None,
        same_as=None,
        supersedes=(),
        expires_at=None,
        retired_at=None,
    )
