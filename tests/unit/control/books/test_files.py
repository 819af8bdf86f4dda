"""Codebooks to files and back, over gRPC and real artifacts."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.artifact import decode_entry
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import serve
from horen_vllm.errors import AlreadyExists, FailedPrecondition, HorenError, InvalidArgument, NotFound
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import RevisionKind

from .conftest import Place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "facts.zip"


def test_a_codebook_comes_out_as_it_went_in(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    here.publish(book, "first", threshold=1 / 3)
    gone = here.publish(book, "gone")
    here.publish(book, "third")
    here.registry.retire_edit(gone.edit_id)
    told: list[int] = []
    size = here.client.export_codebook(book, file, progress=told.append)
    assert (size, sum(told)) == (file.stat().st_size, file.stat().st_size)
    told.clear()
    made = there.client.import_codebook(copy, file, progress=told.append)
    assert sum(told) == size
    assert (made.added, made.already_there, made.kept_retired, made.retired) == (2, 0, 0, 0)
    assert made.codebook == there.client.get_codebook(copy)
    assert (made.codebook.entry_count, made.codebook.parameters.threshold) == (2, 1 / 3)
    assert there.shape(copy) == here.shape(book)
    (first, tombstone, third) = there.client.list_edits(copy)
    assert tombstone.state.value == "inactive"
    # A server holds an entry to the name that its codebook gives it.
    refs = there.registry.entries(copy)
    assert [ref.edit_id for ref in refs] == [first.edit_id, third.edit_id]
    assert [it.kind for it in there.registry.list_revisions(copy)] == [RevisionKind.CREATE, RevisionKind.IMPORT]


def test_an_older_revision_can_be_exported(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    here.publish(book, "first", threshold=0.25)
    here.publish(book, "second", threshold=0.75)
    here.client.export_codebook(book, file, revision=2)
    made = there.client.import_codebook(copy, file)
    assert (made.added, made.codebook.parameters.threshold) == (1, 0.25)
    assert [prompt for prompt, _, _ in there.shape(copy)] == ["first"]
    with pytest.raises(NotFound) as caught:
        here.client.export_codebook(book, file.with_name("none.zip"), revision=9)
    assert caught.value.code == "unknown_revision"
    assert [path.name for path in file.parent.glob("*.zip*")] == [file.name]


def test_equal_content_gives_equal_edits(here: Place, book: CodebookName, file: Path, tmp_path: Path) -> None:
    here.publish(book, "first")
    again = tmp_path / "again.zip"
    here.client.export_codebook(book, file)
    here.client.export_codebook(book, again)
    with zipfile.ZipFile(file) as one, zipfile.ZipFile(again) as two:
        assert one.namelist() == two.namelist()
        assert one.read("edits.jsonl") == two.read("edits.jsonl")
        header = json.loads(one.read("codebook.json"))
    assert (header["revision"], header["entries"], header["format_version"]) == (2, 1, 1)


def test_an_entry_that_names_others_names_them_by_their_ids_there(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    first = here.publish(book, "first")
    here.publish(book, "second!", splits=((first.edit_id, 0.5), ("e0", 0.25)))
    here.client.export_codebook(book, file)
    there.client.import_codebook(copy, file)
    one, two = there.registry.entries(copy)
    assert one.artifact == here.registry.entries(book)[0].artifact
    manifest = decode_entry(there.artifacts.read(two.artifact)).manifest
    assert (manifest.edit_id, manifest.splits) == (two.edit_id, ((one.edit_id, 0.5), ("e0", 0.25)))
    # Back home the names are the old ones, and so is the file.
    here.client.rollback(book, 1)
    there.client.export_codebook(copy, file)
    assert here.client.import_codebook(book, file).added == 2
    assert [ref.artifact for ref in here.registry.entries(book)] == [
        ref.artifact for ref in here.registry.entries(book, 3)
    ]


def test_an_old_file_brings_nothing_back(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    edit = here.publish(book, "first")
    here.client.export_codebook(book, file)
    here.registry.retire_edit(edit.edit_id)
    tombstones = file.with_name("later.zip")
    here.client.export_codebook(book, tombstones)
    there.client.import_codebook(copy, tombstones)
    for place, name in ((here, book), (there, copy)):
        made = place.client.import_codebook(name, file)
        assert (made.added, made.kept_retired, made.codebook.entry_count) == (0, 1, 0)


def test_the_same_request_is_made_once(here: Place, book: CodebookName, file: Path) -> None:
    here.publish(book, "first")
    here.client.export_codebook(book, file)
    here.client.rollback(book, 1)
    made = here.client.import_codebook(book, file, request_id="r1")
    assert here.client.import_codebook(book, file, request_id="r1") == made
    assert here.client.get_codebook(book).revision == 4
    here.client.export_codebook(book, file)
    with pytest.raises(AlreadyExists) as caught:
        here.client.import_codebook(book, file, request_id="r1")
    assert caught.value.code == "request_id_reused"


def test_a_dry_run_stores_nothing(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    here.publish(book, "first")
    here.client.export_codebook(book, file)
    dry = there.client.import_codebook(copy, file, validate_only=True)
    assert dry.added == 1
    assert list(there.artifacts.list()) == []
    assert there.client.get_codebook(copy).revision == 1


def test_what_differs_is_said(here: Place, there: Place, book: CodebookName, file: Path) -> None:
    here.publish(book, "first")
    here.client.export_codebook(book, file)
    other = there.client.create_codebook("other", preset="cosine", threshold=0.5, chat=False, rank=4)
    with pytest.raises(FailedPrecondition, match=r"rank \(0\).*chat \(True\)") as caught:
        there.client.import_codebook(other.name, file)
    assert caught.value.code == "import_mismatch"
    with pytest.raises(NotFound) as missing:
        there.client.import_codebook("ghost", file)
    assert missing.value.code == "unknown_codebook"


def test_without_an_artifact_store_nothing_travels(here: Place, book: CodebookName, file: Path) -> None:
    here.publish(book, "first")
    here.client.export_codebook(book, file)
    with serve(here.registry, replace(here.settings, artifacts=None)) as server, HorenClient(server.address) as client:
        for call in (
            lambda: client.export_codebook(book, file.with_name("none.zip")),
            lambda: client.import_codebook(book, file),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                call()
            assert caught.value.code == "artifacts_unset"


def test_an_entry_whose_file_is_lost_is_said_so(here: Place, book: CodebookName, file: Path) -> None:
    edit = here.publish(book, "first")
    here.artifacts.delete(edit.artifact or "")
    with pytest.raises(NotFound) as caught:
        here.client.export_codebook(book, file)
    assert caught.value.code == "unknown_artifact"
    assert not file.exists()


def test_a_file_over_many_messages_travels(
    here: Place, there: Place, book: CodebookName, copy: CodebookName, file: Path
) -> None:
    here.publish(book, "wide", width=500_000)
    here.publish(book, "wider", width=1_000_000)
    assert here.client.export_codebook(book, file) > 10 * 1024**2
    assert there.client.import_codebook(copy, file).added == 2
    assert there.shape(copy) == here.shape(book)


@pytest.fixture
def exported(here: Place, book: CodebookName, file: Path) -> bytes:
    here.publish(book, "first")
    here.client.export_codebook(book, file)
    return file.read_bytes()


def test_a_file_that_was_cut_is_refused(here: Place, book: CodebookName, file: Path, exported: bytes) -> None:
    for length in (0, 1, 63, 64, 65, len(exported) // 2, len(exported) - 1):
        file.write_bytes(exported[:length])
        with pytest.raises(InvalidArgument) as caught:
            here.client.import_codebook(book, file)
        assert caught.value.code == "invalid_export"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_altered_is_refused(
    here: Place, book: CodebookName, file: Path, exported: bytes, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(exported) - 1))
    flipped = bytearray(exported)
    flipped[position] ^= data.draw(st.integers(1, 255))
    file.write_bytes(flipped)
    with pytest.raises(InvalidArgument) as caught:
        here.client.import_codebook(book, file)
    assert caught.value.code == "invalid_export"


def test_what_is_no_file_at_all_is_refused(here: Place, book: CodebookName, file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"PK" + bytes(100_000))
    with pytest.raises(InvalidArgument):
        here.client.import_codebook(book, file)
    with pytest.raises(OSError):
        here.client.import_codebook(book, tmp_path / "missing.zip")
    calls: list[Callable[[], object]] = [lambda: here.client.import_codebook("Bad Name", file)]
    for call in calls:
        with pytest.raises(HorenError) as caught:
            call()
        assert caught.value.code == "invalid_name"
