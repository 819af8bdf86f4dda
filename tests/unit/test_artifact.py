"""Entries as files: what is written is read back, and nothing else is."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from horen_vllm.artifact import EntryArtifact, EntryManifest, KeyContext, decode_entry, encode_entry
from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import DataLoss


@pytest.fixture
def entry() -> EntryArtifact:
    manifest = EntryManifest(
        edit_id="e1",
        fingerprint="f" * 64,
        site="model.layers.3.mlp.down_proj",
        value_mode=ValueMode.SEQUENCE,
        span=3,
        chunk=1,
        target_ids=(7, 9),
        normalised_prompt="who leads ünïcode?",
        trained_end=True,
        loss=0.025,
        steps=7,
    )
    torch.manual_seed(0)
    return EntryArtifact(keys=torch.randn(2, 5), values=torch.randn(3, 4), manifest=manifest)


def test_entry_survives_the_file(entry: EntryArtifact) -> None:
    data = encode_entry(entry)
    read = decode_entry(data)
    assert read.manifest == entry.manifest
    assert torch.equal(read.keys.view(torch.int32), entry.keys.view(torch.int32))
    assert torch.equal(read.values.view(torch.int32), entry.values.view(torch.int32))
    assert encode_entry(read) == data


def test_a_lora_entry_and_its_probe_survive_the_file(entry: EntryArtifact) -> None:
    manifest = replace(entry.manifest, rank=2, chunk=3, probe_ids=(1, 5, 9), value_mode=ValueMode.ANSWER)
    read = decode_entry(encode_entry(replace(entry, values=torch.randn(4, 4), manifest=manifest)))
    assert read.manifest == manifest
    assert read.values.shape == (4, 4)


def test_chunks_and_the_contexts_of_keys_survive_the_file(entry: EntryArtifact) -> None:
    contexts = (KeyContext((1, 5, 9), (1, 3)), KeyContext((1, 2, 5, 9, 3), (2, 4)))
    manifest = replace(entry.manifest, span=5, chunk=2, contexts=contexts)
    data = encode_entry(replace(entry, manifest=manifest))
    assert decode_entry(data).manifest == manifest
    assert encode_entry(decode_entry(data)) == data


@pytest.mark.parametrize("count", [1, 3])
def test_contexts_that_are_not_one_a_key_are_refused(entry: EntryArtifact, count: int) -> None:
    contexts = (KeyContext((1, 5), (0, 2)),) * count
    with pytest.raises(ValueError, match=f"{count} contexts for 2 keys"):
        replace(entry, manifest=replace(entry.manifest, contexts=contexts))
    fields = {**asdict(entry.manifest), "contexts": [asdict(context) for context in contexts]}
    with pytest.raises(DataLoss) as caught:
        decode_entry(file_with(entry, fields))
    assert caught.value.code == "artifact_unreadable"


@pytest.mark.parametrize(
    ("stored", "chunk"),
    [
        ({"value_mode": "sequence"}, 1),
        ({"value_mode": "answer"}, 3),
        ({"value_mode": "last", "span": 1}, 1),
        ({"value_mode": "sequence", "rank": 2}, 3),
    ],
)
def test_an_entry_from_before_chunks_has_a_vector_a_position_or_one_for_all(
    entry: EntryArtifact, stored: dict[str, Any], chunk: int
) -> None:
    fields = asdict(entry.manifest) | stored
    for later in ("chunk", "contexts", "probe_ids"):
        del fields[later]
    manifest = decode_entry(file_with(entry, fields)).manifest
    assert (manifest.chunk, manifest.contexts, manifest.probe_ids) == (chunk, (), ())
    del fields["rank"]
    assert decode_entry(file_with(entry, fields)).manifest.rank == 0


def file_with(entry: EntryArtifact, fields: dict[str, Any]) -> bytes:
    """Return a file with the tensors of `entry` and these manifest fields."""
    data: bytes = save({"keys": entry.keys, "values": entry.values}, metadata={"horen": json.dumps(fields)})
    return data


def test_a_manifest_with_an_unknown_field_is_refused(entry: EntryArtifact) -> None:
    fields = {**asdict(entry.manifest), "surprise": 1}
    with pytest.raises(DataLoss):
        decode_entry(file_with(entry, fields))


def test_other_content_gives_other_bytes(entry: EntryArtifact) -> None:
    other = replace(entry, manifest=replace(entry.manifest, steps=8))
    assert encode_entry(other) != encode_entry(entry)


def test_strided_and_half_tensors_are_stored_as_contiguous_float32(entry: EntryArtifact) -> None:
    strided = replace(entry, keys=torch.randn(5, 2).T, values=entry.values.half())
    read = decode_entry(encode_entry(strided))
    assert torch.equal(read.keys, strided.keys)
    assert read.values.dtype == torch.float32


@pytest.mark.parametrize("size", [0, 4, 40, -1, -20])
def test_refuses_truncated_bytes(entry: EntryArtifact, size: int) -> None:
    with pytest.raises(DataLoss) as caught:
        decode_entry(encode_entry(entry)[:size])
    assert caught.value.code == "artifact_unreadable"


def test_refuses_a_newer_format(entry: EntryArtifact) -> None:
    newer = replace(entry, manifest=replace(entry.manifest, format_version=99))
    with pytest.raises(DataLoss, match="99"):
        decode_entry(encode_entry(newer))
