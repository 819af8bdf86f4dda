"""Small entries, parameters and buffers for the engine half's tests."""

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import value_rows
from horen_vllm.plugin.codebooks import PagedCodebooks

D_IN = 6
D_OUT = 5


def parameters(threshold: float = 0.9, window_ratio: float = 0.6, gamma: float = 0.0) -> MethodParameters:
    """Return plain routing parameters."""
    steps = 1 if gamma else 0
    return MethodParameters(
        preset="cosine", threshold=threshold, window_ratio=window_ratio, gamma=gamma, steps=steps, beta=5.0
    )


def make_entry(
    edit_id: str,
    *,
    seed: int = 0,
    num_keys: int = 1,
    span: int = 2,
    mode: ValueMode = ValueMode.SEQUENCE,
    keys: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
) -> EntryArtifact:
    """Return an entry with random unit keys and random values unless they are given."""
    generator = torch.Generator().manual_seed(seed)
    if keys is None:
        keys = torch.nn.functional.normalize(torch.randn(num_keys, D_IN, generator=generator), dim=-1)
    if values is None:
        values = torch.randn(value_rows(mode, span), D_OUT, generator=generator)
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint="f",
        site="s",
        value_mode=mode,
        span=span,
        target_ids=(1,),
        normalised_prompt=edit_id,
        trained_end=False,
        loss=0.0,
        steps=0,
    )
    return EntryArtifact(keys=keys, values=values, manifest=manifest)


def make_codebooks(num_keys: int = 64, num_values: int = 64, dtype: torch.dtype = torch.float32) -> PagedCodebooks:
    """Return empty buffers on the CPU; rows that nobody has written are NaN."""
    codebooks = PagedCodebooks(
        d_in=D_IN, d_out=D_OUT, num_keys=num_keys, num_values=num_values, dtype=dtype, device=torch.device("cpu")
    )
    codebooks.keys.fill_(float("nan"))
    codebooks.values.fill_(float("nan"))
    return codebooks


def replace_all(codebooks: PagedCodebooks, name: str, revision: int, *entries: EntryArtifact) -> None:
    """Make `entries` the whole of a codebook's next revision."""
    codebooks.apply(
        name,
        base_revision=0,
        revision=revision,
        parameters=parameters(),
        added=list(enumerate(entries, start=1)),
        removed=[],
    )


def poison_free_rows(codebooks: PagedCodebooks) -> None:
    """Make every row that belongs to nobody NaN, so that reading one shows."""
    for start, count in codebooks._key_rows._free:
        codebooks.keys[start : start + count] = float("nan")
    for start, count in codebooks._value_rows._free:
        codebooks.values[start : start + count] = float("nan")
