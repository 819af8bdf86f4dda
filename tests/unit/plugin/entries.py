"""Small entries, parameters and buffers for the engine half's tests."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.core.values import value_rows
from horen_vllm.pack import EntryPack, build_pack
from horen_vllm.plugin.codebooks import PagedCodebooks, Update
from horen_vllm.plugin.entries import EntryStore
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.texts import PromptTexts

D_IN = 6
D_OUT = 5

Numbered = tuple[int, EntryArtifact]
"""Edit sequence number and entry."""


def parameters(
    threshold: float = 0.9, window_ratio: float = 0.6, gamma: float = 0.0, steps: int | None = None
) -> MethodParameters:
    """Return plain routing parameters."""
    return MethodParameters(
        preset="cosine",
        threshold=threshold,
        window_ratio=window_ratio,
        gamma=gamma,
        steps=(1 if gamma else 0) if steps is None else steps,
        beta=5.0,
    )


def make_entry(
    edit_id: str,
    *,
    seed: int = 0,
    num_keys: int = 1,
    span: int = 2,
    mode: ValueMode = ValueMode.SEQUENCE,
    chunk: int = 1,
    rank: int = 0,
    keys: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
    **more: Any,
) -> EntryArtifact:
    """Return an entry with random unit keys and random values unless they are given; `chunk` is of `sequence`.

    `more` are further fields of its manifest.
    """
    chunk = chunk if mode is ValueMode.SEQUENCE and not rank else span
    generator = torch.Generator().manual_seed(seed)
    if keys is None:
        keys = F.normalize(torch.randn(num_keys, D_IN, generator=generator), dim=-1)
    if values is None:
        values = torch.randn(2 * rank or value_rows(span, chunk), D_OUT, generator=generator)
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint="f",
        site="s",
        value_mode=mode,
        span=span,
        chunk=chunk,
        target_ids=(1,),
        normalised_prompt=edit_id,
        trained_end=False,
        loss=0.0,
        steps=0,
        rank=rank,
        **more,
    )
    return EntryArtifact(keys=keys, values=values, manifest=manifest)


def pack_of(entries: Sequence[Numbered], space: RoutingSpace | None = None) -> EntryPack:
    """Return the pack of entries, each under its real digest."""
    rows = [(number, hashlib.sha256(encode_entry(entry)).hexdigest(), entry) for number, entry in entries]
    return build_pack(rows, space)


def make_store(
    num_keys: int = 64,
    num_values: int = 64,
    *,
    d_in: int = D_IN,
    dtype: torch.dtype = torch.float32,
    shard: tuple[int, int] = (0, 1),
) -> EntryStore:
    """Return empty buffers on the CPU; rows that belong to nobody are NaN."""
    return EntryStore(
        d_in=d_in,
        d_out=D_OUT,
        key_numbers=num_keys * d_in,
        num_values=num_values,
        dtype=dtype,
        device=torch.device("cpu"),
        shard=shard,
        poison=True,
    )


def make_codebooks(
    num_keys: int = 64,
    num_values: int = 64,
    *,
    dtype: torch.dtype = torch.float32,
    texts: PromptTexts | None = None,
    subject_ranges: int = 4,
) -> PagedCodebooks:
    """Return codebooks over `make_store`."""
    return PagedCodebooks(make_store(num_keys, num_values, dtype=dtype), texts=texts, subject_ranges=subject_ranges)


def update_of(
    name: str,
    revision: int,
    added: Sequence[Numbered] = (),
    *,
    base: int = 0,
    removed: Sequence[str] = (),
    rule: MethodParameters | None = None,
    space: RoutingSpace | None = None,
) -> Update:
    """Return an update; base 0 makes `added` the whole revision."""
    return Update(
        codebook=name,
        base_revision=base,
        revision=revision,
        parameters=rule or parameters(),
        added=pack_of(added, space),
        removed=removed,
    )


def publish(codebooks: PagedCodebooks, update: Update) -> RevisionView:
    """Prepare an update and make it current."""
    view = codebooks.prepare(update)
    codebooks.flip(view, update.base_revision)
    return view


def replace_all(codebooks: PagedCodebooks, name: str, revision: int, *entries: EntryArtifact) -> RevisionView:
    """Make `entries`, numbered from 1, the whole of a codebook's next revision."""
    return publish(codebooks, update_of(name, revision, list(enumerate(entries, start=1))))


def used_rows(store: EntryStore) -> tuple[int, int]:
    """Return how many key rows, as wide as the site's input, and value rows belong to somebody."""
    pages = store.pages()
    assert pages["keys"]["used"] % store.d_in == 0
    return pages["keys"]["used"] // store.d_in, pages["values"]["used"]


def unowned_rows_are_poison(store: EntryStore) -> bool:
    """Tell whether exactly what belongs to somebody holds numbers."""
    pages = store.pages()
    keys, values = int((~store.keys.isnan()).sum()), int((~store.values.isnan().any(dim=1)).sum())
    return (keys, values) == (pages["keys"]["used"], pages["values"]["used"])
