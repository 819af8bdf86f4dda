"""The editor's growing copy of a codebook: each key once, the newest holder, and what is read again."""

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, KeyContext
from horen_vllm.core.presets import ValueMode, preset_parameters
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.keying import Keying
from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef

WIDTH = 8
PARAMETERS = preset_parameters("cosine", "tiny", threshold=0.9)
KEYS = F.normalize(torch.randn(1200, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


def entry(sequence: int, rows: list[int], *, prompt: str | None = None, named: bool = True) -> Entry:
    manifest = EntryManifest(
        edit_id=f"e{sequence}",
        fingerprint="f",
        site="s",
        value_mode=ValueMode.LAST,
        span=1,
        chunk=1,
        target_ids=(5,),
        normalised_prompt=prompt or f"p{sequence}",
        trained_end=False,
        loss=0.1,
        steps=1,
        contexts=tuple(KeyContext((3, row), (0, 2)) for row in rows) if named else (),
    )
    artifact = EntryArtifact(keys=KEYS[rows], values=torch.full((1, 2), float(sequence)), manifest=manifest)
    ref = EntryRef(edit_id=EditId(f"e{sequence}"), sequence=sequence, artifact=f"d{sequence}")
    return Entry(ref, artifact)


class Files:
    """Entries' artifacts by digest; counts how often they are read."""

    def __init__(self, *entries: Entry) -> None:
        self.artifacts = {item.ref.artifact: item.artifact for item in entries}
        self.reads = 0

    def load(self, ref: EntryRef) -> EntryArtifact:
        self.reads += 1
        return self.artifacts[ref.artifact]


def book_of(*entries: Entry) -> EditorCodebook:
    book = EditorCodebook(Keying(PARAMETERS), WIDTH, Files(*entries).load)
    book.update(3, entries, ())
    return book


def owner(book: EditorCodebook, row: int) -> int:
    place = book.arena.row(KEYS[row])
    return NOBODY if place is None else int(book.arena.owners[place])


def test_an_equal_key_is_kept_once_and_belongs_to_the_newest() -> None:
    book = book_of(entry(4, [1, 2]), entry(1, [0, 1]))
    assert len(book.arena) == 3
    assert [owner(book, row) for row in (0, 1, 2)] == [1, 4, 4]
    book.update(4, (), [EditId("e4")])
    assert [owner(book, row) for row in (0, 1, 2)] == [1, 1, NOBODY]
    book.update(5, [entry(4, [1, 2])], ())
    assert [owner(book, row) for row in (0, 1, 2)] == [1, 4, 4]


def test_an_added_entry_makes_the_next_revision_and_replaces() -> None:
    book = book_of(entry(1, [0], prompt="p"), entry(2, [1]))
    book.add(entry(3, [0, 2], prompt="p"), [EditId("e1")])
    assert (book.revision, book.entries) == (4, 2)
    assert book.same_prompt("p") == (3,)
    assert "e1" not in book
    assert owner(book, 0) == 3


def test_a_delta_may_repeat_what_is_there_and_remove_what_is_not() -> None:
    book = book_of(entry(1, [0]))
    book.add(entry(2, [1]))
    book.update(4, [entry(2, [1])], [EditId("e9")])
    assert (book.revision, book.entries, len(book.arena)) == (4, 2, 2)


def test_values_are_read_again_but_for_what_was_just_added() -> None:
    old, new = entry(1, [0]), entry(2, [1])
    files = Files(old)
    book = EditorCodebook(Keying(PARAMETERS), WIDTH, files.load)
    book.update(3, [old], ())
    book.add(new)
    assert book.entry(EditId("e2")) is new
    assert torch.equal(book.entry(EditId("e1")).artifact.values, old.artifact.values)
    assert files.reads == 1
    files.artifacts["d2"] = new.artifact
    book.update(4, (), ())
    assert torch.equal(book.entry(EditId("e2")).artifact.values, new.artifact.values)
    assert files.reads == 2
    with pytest.raises(KeyError):
        book.entry(EditId("e7"))


def test_a_context_knows_its_newest_key_while_some_entry_has_it() -> None:
    book = book_of(entry(1, [0]), entry(2, [0, 1]), entry(3, [2], named=False))
    for row, expected in ((0, KEYS[0]), (1, KEYS[1])):
        found = book.key_of(KeyContext((3, row), (0, 2)))
        assert found is not None
        assert torch.equal(found, expected)
    assert book.key_of(KeyContext((3, 0), (1, 2))) is None
    assert book.key_of(KeyContext((3, 2), (0, 2))) is None
    book.update(4, (), [EditId("e2")])
    assert book.key_of(KeyContext((3, 1), (0, 2))) is None
    assert book.key_of(KeyContext((3, 0), (0, 2))) is not None


def test_a_context_is_found_by_entry_and_row() -> None:
    book = book_of(entry(1, [5, 6]), entry(2, [7], named=False))
    assert book.context(1, book.rows(1)[1]) == KeyContext((3, 6), (0, 2))
    assert book.context(2, book.rows(2)[0]) is None


def test_compaction_keeps_every_entry_and_its_keys() -> None:
    entries = [entry(number, [2 * number, 2 * number + 1]) for number in range(1, 401)]
    book = book_of(*entries)
    layout = book.arena.layout
    book.update(4, (), [item.ref.edit_id for item in entries[::4] + entries[1::4] + entries[2::4]])
    assert book.arena.layout != layout
    assert (book.entries, len(book.arena)) == (100, 200)
    for item in entries[3::4]:
        rows = list(book.rows(item.ref.sequence))
        assert torch.equal(book.arena.keys[rows], item.artifact.keys)
        assert book.arena.owners[rows].tolist() == [item.ref.sequence] * 2
        found = book.key_of(KeyContext((3, 2 * item.ref.sequence), (0, 2)))
        assert found is not None
        assert torch.equal(found, item.artifact.keys[0])
    book.add(entry(500, [1, 2]))
    assert len(book.arena) == 202


def test_a_context_whose_row_is_gone_has_no_key_after_compaction() -> None:
    others = [entry(number, [number]) for number in range(3, 403)]
    book = book_of(entry(1, [0]), entry(2, [0], named=False), *others)
    book.update(4, (), [EditId("e1")])
    book.update(5, (), [EditId("e2")])
    layout = book.arena.layout
    book.update(6, (), [item.ref.edit_id for item in others[:300]])
    assert book.arena.layout != layout
    assert book.key_of(KeyContext((3, 0), (0, 2))) is None


def test_keys_of_another_width_are_refused() -> None:
    book = EditorCodebook(Keying(PARAMETERS), WIDTH + 1, Files().load)
    with pytest.raises(FailedPrecondition, match=r"\(1, 8\).* 9 wide") as caught:
        book.add(entry(1, [0]))
    assert caught.value.code == "wrong_shape"
