"""Codebooks of one rank: what a revision keeps, what it shares with the next, and when its rows are freed."""

from typing import Any

import pytest
import torch

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.revisions import RevisionView
from tests.unit.plugin.codebook_model import Expected, check_view, open_table
from tests.unit.plugin.entries import (
    D_IN,
    D_OUT,
    make_codebooks,
    make_entry,
    make_store,
    publish,
    replace_all,
    unowned_rows_are_poison,
    update_of,
    used_rows,
)


def test_a_prepared_revision_is_not_served_before_its_flip() -> None:
    codebooks = make_codebooks()
    first = replace_all(codebooks, "a", 1, make_entry("e1"))
    second = codebooks.prepare(update_of("a", 2, [(2, make_entry("e2", seed=1))], base=1))
    assert codebooks.current("a") is first
    codebooks.flip(second, base_revision=1)
    assert codebooks.current("a") is second
    assert sorted(second.edit_ids) == ["e1", "e2"]


def test_an_unchanged_entry_keeps_its_rows_across_revisions() -> None:
    codebooks = make_codebooks()
    first = replace_all(codebooks, "a", 1, make_entry("stays"))
    second = publish(codebooks, update_of("a", 2, [(9, make_entry("new", seed=3))], base=1))
    assert second.entries["stays"] is first.entries["stays"]


def test_a_full_reload_finds_equal_files_where_they_are() -> None:
    codebooks = make_codebooks(num_keys=3, num_values=6)
    kept, gone, new = make_entry("kept"), make_entry("gone", seed=1), make_entry("new", seed=2)
    first = replace_all(codebooks, "a", 1, kept, gone)
    second = publish(codebooks, update_of("a", 5, [(1, kept), (3, new)]))
    assert second.entries["kept"] is first.entries["kept"]
    check_view(codebooks, second, Expected(5, {"kept": (1, kept), "new": (3, new)}))
    assert used_rows(codebooks.store) == (2, 4)


@pytest.mark.parametrize(("number", "seed"), [(2, 0), (1, 5)])
def test_a_file_or_a_number_that_differs_is_written_anew(number: int, seed: int) -> None:
    codebooks = make_codebooks()
    first = replace_all(codebooks, "a", 1, make_entry("e"))
    second = publish(codebooks, update_of("a", 2, [(number, make_entry("e", seed=seed))]))
    assert second.entries["e"] is not first.entries["e"]
    check_view(codebooks, second, Expected(2, {"e": (number, make_entry("e", seed=seed))}))


@pytest.mark.parametrize("base", [0, 1])
def test_an_edit_that_is_removed_and_added_in_one_update_is_the_added_one(base: int) -> None:
    codebooks, again = make_codebooks(), make_entry("e", seed=7, num_keys=2)
    replace_all(codebooks, "a", 1, make_entry("e"), make_entry("other", seed=1))
    view = publish(codebooks, update_of("a", 2, [(5, again)], base=base, removed=["e", "unknown"]))
    others = {"other": (2, make_entry("other", seed=1))} if base else {}
    check_view(codebooks, view, Expected(2, {"e": (5, again), **others}))


def test_a_refused_update_leaves_the_served_revision_alone() -> None:
    codebooks = make_codebooks(num_keys=3, num_values=6)
    old = make_entry("old")
    view = replace_all(codebooks, "a", 1, old)
    crowd = [(number, make_entry(f"e{number}", seed=number)) for number in range(2, 6)]
    for base in (0, 1):
        with pytest.raises(FailedPrecondition) as caught:
            codebooks.prepare(update_of("a", 2, crowd, base=base))
        assert caught.value.code == "capacity_exhausted"
        assert codebooks.current("a") is view
        assert used_rows(codebooks.store) == (1, 2)
        check_view(codebooks, view, Expected(1, {"old": (1, old)}))
    assert unowned_rows_are_poison(codebooks.store)


@pytest.mark.parametrize("wrong", [{"keys": torch.ones(1, D_IN + 1)}, {"values": torch.ones(2, D_OUT + 1)}])
def test_an_update_of_another_width_is_refused(wrong: dict[str, Any]) -> None:
    codebooks = make_codebooks()
    view = replace_all(codebooks, "a", 1, make_entry("old"))
    with pytest.raises(FailedPrecondition) as caught:
        codebooks.prepare(update_of("a", 2, [(2, make_entry("new", **wrong))], base=1))
    assert caught.value.code == "wrong_shape"
    assert codebooks.current("a") is view
    assert used_rows(codebooks.store) == (1, 2)


@pytest.mark.parametrize("leave", ["replaced", "dropped"])
def test_rows_are_freed_when_the_last_pin_is_given_back(leave: str) -> None:
    codebooks, entry = make_codebooks(), make_entry("e")
    replace_all(codebooks, "a", 1, entry)
    views = [codebooks.pin("a"), codebooks.pin("a")]
    if leave == "replaced":
        replace_all(codebooks, "a", 2)
    else:
        codebooks.drop("a")
    for view in views:
        assert view is not None
        check_view(codebooks, view, Expected(1, {"e": (1, entry)}))
        codebooks.unpin(view)
    assert used_rows(codebooks.store) == (0, 0)
    assert unowned_rows_are_poison(codebooks.store)


def test_a_pin_given_back_leaves_a_served_revision_in_place() -> None:
    codebooks = make_codebooks()
    view = replace_all(codebooks, "a", 1, make_entry("e"))
    assert codebooks.pin("a") is view
    codebooks.unpin(view)
    assert used_rows(codebooks.store) == (1, 2)
    codebooks.drop("a")
    assert used_rows(codebooks.store) == (0, 0)


def test_what_is_no_longer_needed_is_handed_to_the_one_who_frees() -> None:
    released: list[RevisionView] = []
    codebooks = PagedCodebooks(make_store(), released.append)
    first = replace_all(codebooks, "a", 1, make_entry("e1"))
    second = replace_all(codebooks, "a", 2, make_entry("e2", seed=1))
    assert released == [first]
    assert used_rows(codebooks.store) == (2, 4)
    codebooks.free(first)
    assert used_rows(codebooks.store) == (1, 2)
    codebooks.drop("a")
    assert released == [first, second]


def test_codebooks_do_not_share_entries_of_the_same_edit_id() -> None:
    codebooks, entry = make_codebooks(), make_entry("e")
    first, second = (replace_all(codebooks, name, 1, entry) for name in ("a", "b"))
    assert first.entries["e"] is not second.entries["e"]
    codebooks.drop("a")
    check_view(codebooks, second, Expected(1, {"e": (1, entry)}))


def owner_of(codebooks: PagedCodebooks, view: RevisionView, key: torch.Tensor) -> str:
    table = open_table(codebooks, view)
    [owner] = [owner for row, owner in zip(table.keys, table.owners.tolist(), strict=True) if torch.equal(row, key)]
    return view.edit_ids[int(owner)]


@pytest.mark.parametrize(("numbers", "newer"), [((1, 2), "y"), ((2, 1), "x")])
def test_of_identical_keys_only_the_newer_edits_is_read(numbers: tuple[int, int], newer: str) -> None:
    codebooks, keys = make_codebooks(), torch.eye(D_IN)[:2]
    pair = [(numbers[0], make_entry("x", keys=keys)), (numbers[1], make_entry("y", keys=keys[:1], seed=1))]
    view = publish(codebooks, update_of("a", 1, pair))
    assert owner_of(codebooks, view, keys[0]) == newer
    assert owner_of(codebooks, view, keys[1]) == "x"
    [older] = {"x", "y"} - {newer}
    assert owner_of(codebooks, publish(codebooks, update_of("a", 2, base=1, removed=[newer])), keys[0]) == older


def test_a_run_of_rows_is_read_in_place_and_scattered_ones_are_gathered() -> None:
    codebooks = make_codebooks()
    crowd = [make_entry(f"e{number}", seed=number, num_keys=2) for number in range(3)]
    whole = replace_all(codebooks, "a", 1, *crowd)
    assert whole.open.run_start == whole.open.rows[0]
    first = codebooks.store.key_rows(D_IN)[whole.open.rows[0]]
    assert open_table(codebooks, whole).keys.data_ptr() == first.data_ptr()
    scattered = publish(codebooks, update_of("a", 2, base=1, removed=["e1"]))
    assert scattered.open.run_start is None
    check_view(codebooks, scattered, Expected(2, {"e0": (1, crowd[0]), "e2": (3, crowd[2])}))


def test_an_empty_revision_has_no_keys() -> None:
    codebooks = make_codebooks()
    view = replace_all(codebooks, "a", 1)
    assert open_table(codebooks, view).keys.shape == (0, D_IN)
    check_view(codebooks, view, Expected(1))


def test_a_codebook_that_is_not_here_has_no_revision() -> None:
    codebooks = make_codebooks()
    codebooks.drop("nobody")
    assert codebooks.pin("nobody") is codebooks.current("nobody") is None
