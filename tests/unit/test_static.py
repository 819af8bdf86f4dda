"""Codebooks as files: what is written is read, and what was touched is refused by the file's name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.spaces import SpaceManifest, encode_space
from horen_vllm.static import StaticDescription, StaticEntry, list_static, read_static, write_static

NAME = CodebookName(TenantId("acme"), "facts")


def store(artifacts: ArtifactFolder, edit_id: str) -> StaticEntry:
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint="f",
        site="s",
        value_mode=ValueMode.LAST,
        span=1,
        chunk=1,
        target_ids=(1,),
        normalised_prompt=edit_id,
        trained_end=False,
        loss=0.0,
        steps=1,
    )
    data = encode_entry(EntryArtifact(keys=torch.eye(1, 4), values=torch.ones(1, 4), manifest=manifest))
    return StaticEntry(edit_id=edit_id, sequence=int(edit_id[1:]), artifact=artifacts.put(data))


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def codebook(artifacts: ArtifactFolder) -> StaticDescription:
    return StaticDescription(
        name=NAME,
        model="m",
        fingerprint="f",
        site="s",
        revision=7,
        parameters=MethodParameters(preset="cosine", threshold=0.9, window_ratio=0.25),
        entries=(store(artifacts, "e1"), store(artifacts, "e2")),
    )


@pytest.fixture
def folder(tmp_path: Path, codebook: StaticDescription, artifacts: ArtifactFolder) -> Path:
    write_static(tmp_path / "static", codebook, artifacts)
    return tmp_path / "static"


def code_of_reading(folder: Path) -> tuple[str, str]:
    with pytest.raises(HorenError) as caught:
        list(read_static(folder))
    return caught.value.code, caught.value.message


def test_what_is_written_is_read(folder: Path, codebook: StaticDescription) -> None:
    assert list_static(folder) == [codebook]
    (read,) = read_static(folder)
    assert (read.name, read.fingerprint, read.revision) == (NAME, "f", 7)
    assert read.parameters == codebook.parameters
    assert [(sequence, entry.manifest.edit_id) for sequence, _, entry in read.entries] == [(1, "e1"), (2, "e2")]
    assert [digest for _, digest, _ in read.entries] == [entry.artifact for entry in codebook.entries]


def test_a_fitted_space_goes_with_its_codebook(
    folder: Path, codebook: StaticDescription, artifacts: ArtifactFolder
) -> None:
    space = RoutingSpace(torch.ones(4), torch.eye(2, 4), torch.ones(3), 0.5, 1, 3)
    manifest = SpaceManifest(fingerprint="f", site="s", window_ratio=0.6, span="prompt", prompts=1, source="built-in")
    digest = artifacts.put(encode_space(space, manifest))
    fitted = replace(codebook, parameters=replace(codebook.parameters, space=digest))
    write_static(folder, fitted, artifacts)
    assert list_static(folder) == [fitted]
    (read,) = read_static(folder)
    assert read.space is not None
    assert torch.equal(read.space.matrix, space.matrix)
    foreign = replace(fitted, fingerprint="g")
    with pytest.raises(HorenError) as caught:
        write_static(folder, foreign, artifacts)
    assert caught.value.code == "fingerprint_mismatch"
    assert digest in caught.value.message
    write_static(folder, codebook, artifacts)
    (read,) = read_static(folder)
    assert read.space is None
    assert not list(folder.rglob(f"{digest}*"))


def test_the_layout_is_tenant_codebook_entries(folder: Path, codebook: StaticDescription) -> None:
    digest = codebook.entries[0].artifact
    assert (folder / "acme" / "facts" / "codebook.json").is_file()
    assert (folder / "acme" / "facts" / digest[:2] / f"{digest}.safetensors").is_file()


def test_codebooks_come_by_name(folder: Path, codebook: StaticDescription, artifacts: ArtifactFolder) -> None:
    for tenant, name in (("zeta", "a"), ("acme", "a")):
        write_static(folder, replace(codebook, name=CodebookName(TenantId(tenant), name)), artifacts)
    assert [str(it.name) for it in read_static(folder)] == [
        "tenants/acme/codebooks/a",
        "tenants/acme/codebooks/facts",
        "tenants/zeta/codebooks/a",
    ]


def test_a_later_revision_replaces_the_earlier_one(
    folder: Path, codebook: StaticDescription, artifacts: ArtifactFolder
) -> None:
    later = replace(codebook, revision=8, entries=codebook.entries[:1])
    write_static(folder, later, artifacts)
    assert list_static(folder) == [later]
    assert len(list(folder.rglob("*.safetensors"))) == 1


def test_what_cannot_be_written_leaves_the_earlier_revision(
    folder: Path, codebook: StaticDescription, artifacts: ArtifactFolder
) -> None:
    lost = StaticEntry(edit_id="e3", sequence=3, artifact="ab" * 32)
    with pytest.raises(HorenError) as caught:
        write_static(folder, replace(codebook, revision=8, entries=(*codebook.entries, lost)), artifacts)
    assert caught.value.code == "unknown_artifact"
    assert list_static(folder) == [codebook]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, message = code_of_reading(tmp_path / "nothing")
    assert code == "static_dir_missing"
    assert str(tmp_path / "nothing") in message


def test_an_empty_folder_has_no_codebooks(tmp_path: Path) -> None:
    assert list(read_static(tmp_path)) == []


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"format_version": 2}', '{"format_version": 1, "revision": 1}'],
)
def test_a_description_that_is_none_is_named(folder: Path, text: str) -> None:
    path = folder / "acme" / "facts" / "codebook.json"
    path.write_text(text)
    code, message = code_of_reading(folder)
    assert code == "static_codebook_invalid"
    assert str(path) in message


@pytest.mark.parametrize("change", [{"format_version": 2}, {"more": 1}, {"revision": "x"}, {"parameters": {}}])
def test_a_description_with_another_field_is_named(folder: Path, change: dict[str, object]) -> None:
    path = folder / "acme" / "facts" / "codebook.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert code_of_reading(folder)[0] == "static_codebook_invalid"


def test_a_folder_whose_name_is_no_name_is_refused(folder: Path) -> None:
    (folder / "acme").rename(folder / "Acme!")
    assert code_of_reading(folder)[0] == "static_codebook_invalid"


def test_touched_and_lost_entries_are_named(folder: Path, codebook: StaticDescription) -> None:
    path = ArtifactFolder(folder / "acme" / "facts").path(codebook.entries[0].artifact)
    path.write_bytes(b"x")
    code, message = code_of_reading(folder)
    assert (code, str(path) in message) == ("artifact_corrupt", True)
    path.unlink()
    code, message = code_of_reading(folder)
    assert (code, str(path) in message) == ("unknown_artifact", True)


def test_an_entry_goes_by_the_name_that_the_codebook_gives_it(folder: Path) -> None:
    path = folder / "acme" / "facts" / "codebook.json"
    path.write_text(path.read_text().replace('"e1"', '"e9"'))
    (read,) = read_static(folder)
    assert "e9" in [entry.manifest.edit_id for _, _, entry in read.entries]
