"""The editor's view of a codebook: tables, equal keys, and reading each artifact once."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.artifact import ArtifactFolder, EntryArtifact, EntryManifest, encode_entry
from horen_vllm.core.presets import ValueMode
from horen_vllm.editor.codebook import CodebookCache, CodebookState, Entry
from horen_vllm.errors import NotFound
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EntryRef

NAME = CodebookName(DEFAULT_TENANT, "facts")
KEYS = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)


def artifact(keys: torch.Tensor, edit_id: str) -> EntryArtifact:
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint="f",
        site="s",
        value_mode=ValueMode.SEQUENCE,
        span=1,
        target_ids=(5,),
        normalised_prompt=edit_id,
        trained_end=False,
        loss=0.1,
        steps=1,
    )
    return EntryArtifact(keys=keys, values=torch.zeros(1, 4), manifest=manifest)


def entry(keys: torch.Tensor, sequence: int) -> Entry:
    edit_id = EditId(f"e{sequence}")
    return Entry(EntryRef(edit_id=edit_id, sequence=sequence, artifact=edit_id), artifact(keys, edit_id))


def test_table_of_an_empty_codebook() -> None:
    table = CodebookState(1).key_table(8)
    assert (table.keys.shape, table.owners.shape, table.sequences.shape) == ((0, 8), (0,), (0,))


def test_table_with_a_candidate_and_without_what_it_replaces() -> None:
    state = CodebookState(3, (entry(KEYS[:2], 1), entry(KEYS[2:3], 4)))
    table, candidate = state.key_table_with(KEYS[3:5], 7, without=(0,))
    assert candidate == 1
    assert torch.equal(table.keys, KEYS[2:5])
    assert table.owners.tolist() == [0, 1, 1]
    assert table.sequences.tolist() == [4, 7]


def test_an_equal_key_belongs_to_the_newest_entry() -> None:
    state = CodebookState(3, (entry(KEYS[[0, 1]], 1), entry(KEYS[[1, 2]], 4)))
    table = state.key_table(8)
    assert torch.equal(table.keys, KEYS[[0, 1, 2]])
    assert table.owners.tolist() == [0, 1, 1]
    table, _ = state.key_table_with(KEYS[[2, 3]], 2)
    assert table.owners.tolist() == [0, 1, 1, 2]


def test_cache_reads_each_artifact_once(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    digests = [folder.put(encode_entry(artifact(KEYS[i : i + 1], f"e{i}"))) for i in range(2)]
    refs = [EntryRef(edit_id=EditId(f"e{i}"), sequence=i, artifact=digests[i]) for i in range(2)]
    cache = CodebookCache(folder)
    first = cache.load(NAME, 2, refs[:1])
    folder.path(digests[0]).unlink()
    second = cache.load(NAME, 3, refs)
    assert second.revision == 3
    assert second.entries[0].artifact is first.entries[0].artifact
    assert second.edit_ids([1]) == ("e1",)
    assert cache.load(NAME, 4, refs[1:]).key_table(8).keys.shape == (1, 8)
    with pytest.raises(NotFound):
        cache.load(NAME, 5, refs)
