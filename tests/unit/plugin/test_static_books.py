"""Static mode in the engine: every codebook of a folder is applied, or the engine does not start."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from horen_vllm.artifact import EntryArtifact, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.errors import FailedPrecondition, HorenError
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.ids import CodebookName
from horen_vllm.plugin import static_books
from horen_vllm.static import StaticDescription, StaticEntry, write_static
from tests.unit.plugin.codebook_model import Expected, check_view
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, parameters, used_rows

SITE = "layers.0.down_proj"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model folder of which only the fingerprint is asked."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    save_file({f"{SITE}.weight": torch.ones(D_OUT, D_IN)}, folder / "model.safetensors")
    return str(folder)


def save(tmp_path: Path, codebook: str, fingerprint: str, *entries: EntryArtifact) -> str:
    """Write a codebook at revision 3 into the folder of static codebooks and return that folder."""
    artifacts, rows = ArtifactFolder(tmp_path / "artifacts"), []
    for number, entry in enumerate(entries, start=1):
        rows.append(
            StaticEntry(edit_id=entry.manifest.edit_id, sequence=number, artifact=artifacts.put(encode_entry(entry)))
        )
    description = StaticDescription(
        name=CodebookName.parse(f"tenants/default/codebooks/{codebook}"),
        model="m",
        fingerprint=fingerprint,
        site=SITE,
        revision=3,
        parameters=parameters(threshold=0.7),
        entries=tuple(rows),
    )
    write_static(tmp_path / "books", description, artifacts)
    return str(tmp_path / "books")


def test_every_codebook_of_the_folder_is_served_at_its_revision(tmp_path: Path, model: str) -> None:
    codebooks, own = make_codebooks(), model_fingerprint(model, SITE)
    first, second = make_entry("e1", num_keys=2), make_entry("e2", seed=1, rank=2)
    save(tmp_path, "a", own, first, second)
    folder = save(tmp_path, "empty", own)
    static_books.load(codebooks, folder, model, SITE)
    assert sorted(codebooks.applied()) == ["tenants/default/codebooks/a", "tenants/default/codebooks/empty"]
    view = codebooks.current("tenants/default/codebooks/a")
    assert view is not None
    assert view.parameters.threshold == 0.7
    check_view(codebooks, view, Expected(3, {"e1": (1, first), "e2": (2, second)}))


def test_a_codebook_of_another_base_model_is_refused_by_name(tmp_path: Path, model: str) -> None:
    codebooks = make_codebooks()
    folder = save(tmp_path, "foreign", "f" * 64, make_entry("e"))
    with pytest.raises(FailedPrecondition, match="foreign") as caught:
        static_books.load(codebooks, folder, model, SITE)
    assert caught.value.code == "fingerprint_mismatch"
    assert codebooks.applied() == {}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (make_entry("e", num_keys=9), "capacity_exhausted"),
        (make_entry("e", keys=torch.ones(1, D_IN + 1)), "wrong_shape"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, model: str, entry: EntryArtifact, code: str) -> None:
    codebooks = make_codebooks(num_keys=8)
    folder = save(tmp_path, "a", model_fingerprint(model, SITE), entry)
    with pytest.raises(FailedPrecondition) as caught:
        static_books.load(codebooks, folder, model, SITE)
    assert caught.value.code == code
    assert used_rows(codebooks.store) == (0, 0)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(HorenError) as caught:
        static_books.load(make_codebooks(), str(tmp_path / "nothing"), model, SITE)
    assert caught.value.code == "static_dir_missing"
