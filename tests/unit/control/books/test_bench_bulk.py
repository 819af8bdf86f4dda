"""The file of `bench.updates`: made entries go the way of exported ones, behind those that were really trained."""

from pathlib import Path

import pytest

from bench.serving_latency import BOOK as ROLLED_BACK
from bench.updates import export_full
from bench.updates_bulk import BulkFile, rates, write_bulk_file
from horen_vllm.artifact import decode_entry
from horen_vllm.ids import CodebookName

from .conftest import Place

WIDTHS = (6, 5)
VECTORS = 4


@pytest.fixture
def exported(here: Place, book: CodebookName, tmp_path: Path) -> Path:
    here.publish(book, "first", threshold=0.75)
    gone = here.publish(book, "gone")
    here.publish(book, "third")
    here.registry.retire_edit(gone.edit_id)
    here.client.export_codebook(book, tmp_path / "exported")
    return tmp_path / "exported"


def test_a_made_file_is_imported_as_a_whole(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, exported: Path, tmp_path: Path
) -> None:
    made = write_bulk_file(exported, tmp_path / "bulk", 12)
    view = there.client.import_codebook(copy, made.path)
    assert (view.added, view.codebook.entry_count, view.codebook.parameters.threshold) == (12, 12, 0.75)
    assert there.shape(copy)[:2] == here.shape(book)
    files = [there.artifacts.read(ref.artifact) for ref in there.registry.entries(copy)]
    assert len(set(files)) == 12
    entries = [decode_entry(data) for data in files[2:]]
    assert {(tuple(it.keys.shape), tuple(it.values.shape)) for it in entries} == {
        ((1, WIDTHS[0]), (VECTORS, WIDTHS[1]))
    }
    assert all(abs(float(it.keys.norm()) - 1.0) < 1e-6 for it in entries)
    # Without a prompt to be asked by, so that a server asks itself about the real ones alone.
    assert {it.manifest.probe_ids for it in entries} == {()}
    assert (made.file_bytes, made.artifact_bytes) == (made.path.stat().st_size, sum(map(len, files)))
    assert made.pool_bytes == 12 * 4 * (WIDTHS[0] + VECTORS * WIDTHS[1])


@pytest.mark.parametrize("entries", [1, 2], ids=["fewer", "as-many"])
def test_a_file_that_needs_no_made_entry_is_none(exported: Path, tmp_path: Path, entries: int) -> None:
    with pytest.raises(ValueError, match=f"2 entries cannot be made {entries}"):
        write_bulk_file(exported, tmp_path / "bulk", entries)


def test_rates_are_those_of_the_median() -> None:
    file = BulkFile(Path("bulk"), entries=100, file_bytes=9_000_000, artifact_bytes=8_000_000, pool_bytes=2_000_000)
    found = rates(file, [4.0, 1.0, 2.0])
    assert found["seconds"] == [4.0, 1.0, 2.0]
    assert (found["median_s"], found["entries_a_second"]) == (2.0, 50.0)
    assert (found["artifact_mb_a_second"], found["pool_mb_a_second"]) == (4.0, 1.0)


def test_what_rollbacks_left_empty_is_exported_with_its_entries(here: Place, there: Place, tmp_path: Path) -> None:
    book = here.client.create_codebook(ROLLED_BACK, preset="cosine", threshold=0.85).name
    here.publish(book, "first")
    full = here.client.get_codebook(book).revision
    here.client.rollback(book, 1)
    assert here.client.get_codebook(book).entry_count == 0
    exported = export_full(here.client, tmp_path, full)
    copy = there.client.create_codebook("copy", preset="cosine", threshold=0.5).name
    assert there.client.import_codebook(copy, exported).added == 1
