"""Fitted spaces and keys of several widths in one buffer: shared, within the budget, freed with the last."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.euclid import LIFT
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.key_buffer import KeyBuffer
from tests.unit.plugin.codebook_model import open_table
from tests.unit.plugin.entries import (
    D_IN,
    Numbered,
    make_codebooks,
    make_entry,
    make_store,
    parameters,
    publish,
    unowned_rows_are_poison,
    update_of,
)
from tests.unit.plugin.spoken import spoken_texts

RANK, BUCKETS = 3, 4
SPACE_NUMBERS = (RANK + 1) * D_IN


@settings(max_examples=100, deadline=None)
@given(taken=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.booleans()), max_size=12))
def test_rows_of_any_width_share_a_buffer_and_never_each_others_numbers(taken: list[tuple[int, int, bool]]) -> None:
    buffer, held = KeyBuffer(120, torch.device("cpu"), poison=True), list[tuple[int, int, int, float]]()
    for number, (count, width, frees) in enumerate(taken):
        row = taken_row(buffer, count, width)
        if row is not None:
            buffer.rows(width)[row : row + count] = float(number)
            held.append((row, count, width, float(number)))
        if frees and held:
            gone = held.pop(number % len(held))
            buffer.give_back(gone[0], gone[2])
    for row, count, width, content in held:
        assert (buffer.rows(width)[row : row + count] == content).all()
    owned = sum(count * width for _, count, width, _ in held)
    assert buffer.usage() == {"used": owned, "free": 120 - owned, "budget": 120}
    assert int((~buffer.numbers.isnan()).sum()) == owned


def taken_row(buffer: KeyBuffer, count: int, width: int) -> int | None:
    """Take rows; None where there is no room, and then nothing is taken."""
    usage = buffer.usage()
    try:
        return buffer.take(count, width)
    except FailedPrecondition as error:
        code = error.code
    assert (code, buffer.usage()) == ("capacity_exhausted", usage)
    return None


def make_space(seed: int = 0, *, buckets: int = BUCKETS, d_in: int = D_IN) -> RoutingSpace:
    generator = torch.Generator().manual_seed(seed)
    mean, matrix = torch.randn(d_in, generator=generator), torch.randn(RANK, d_in, generator=generator)
    return RoutingSpace(mean, matrix, torch.rand(97, generator=generator), 0.25 if buckets else 0.0, 1, buckets)


def fitted(digest: str = "d") -> MethodParameters:
    return MethodParameters(preset="cosine", threshold=0.9, space=digest * 64)


def entry_of(number: int, width: int = RANK + BUCKETS) -> Numbered:
    keys = F.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(number)), dim=1)
    return number, make_entry(f"e{number}", keys=keys, span=1)


def books(num_keys: int = 64) -> PagedCodebooks:
    return make_codebooks(num_keys, texts=spoken_texts())


def code_of(codebooks: PagedCodebooks, *update: Any, **more: Any) -> str:
    pages = codebooks.store.pages()
    with pytest.raises(FailedPrecondition) as caught:
        codebooks.prepare(update_of(*update, **more))
    assert codebooks.store.pages() == pages
    assert unowned_rows_are_poison(codebooks.store)
    return caught.value.code


def used(codebooks: PagedCodebooks) -> int:
    return codebooks.store.pages()["keys"]["used"]


def test_a_space_is_written_once_and_freed_with_its_last_revision() -> None:
    codebooks, space = books(), make_space()
    first = publish(codebooks, update_of("a", 1, [entry_of(1)], rule=fitted(), space=space))
    publish(codebooks, update_of("b", 1, [entry_of(2)], rule=fitted(), space=space))
    assert (used(codebooks), len(codebooks.store.spaces)) == (SPACE_NUMBERS + 2 * (RANK + BUCKETS), 1)
    assert first.space is not None
    held = first.space.space
    for name in ("mean", "matrix", "rarity"):
        assert torch.equal(getattr(held, name), getattr(space, name))
    assert held.matrix.untyped_storage().data_ptr() == codebooks.store.keys.untyped_storage().data_ptr()
    assert (held.word_share, held.order) == (space.word_share, space.order)
    assert held.rarity.data_ptr() != space.rarity.data_ptr()
    pinned = codebooks.pin("a")
    assert pinned is first
    codebooks.drop("a")
    codebooks.drop("b")
    assert (used(codebooks), len(codebooks.store.spaces)) == (SPACE_NUMBERS + RANK + BUCKETS, 1)
    codebooks.unpin(first)
    assert (used(codebooks), len(codebooks.store.spaces)) == (0, 0)
    assert unowned_rows_are_poison(codebooks.store)


def test_a_change_finds_the_space_where_it_is() -> None:
    codebooks = books()
    publish(codebooks, update_of("a", 1, [entry_of(1)], rule=fitted(), space=make_space()))
    view = publish(codebooks, update_of("a", 2, [entry_of(2)], base=1, rule=fitted()))
    assert sorted(view.edit_ids) == ["e1", "e2"]
    for number in (1, 2):
        index = view.edit_ids.index(f"e{number}")
        table = open_table(codebooks, view)
        assert torch.equal(table.keys[table.owners == index], entry_of(number)[1].keys)
    codebooks.drop("a")
    assert used(codebooks) == 0


def test_a_space_that_is_nowhere_is_asked_for() -> None:
    codebooks = books()
    assert code_of(codebooks, "a", 1, [entry_of(1)], rule=fitted()) == "space_missing"
    publish(codebooks, update_of("b", 1, [], rule=fitted(), space=make_space()))
    assert publish(codebooks, update_of("a", 1, [entry_of(1)], rule=fitted())).space is not None


@pytest.mark.parametrize("other", [fitted("e"), parameters(), MethodParameters(preset="g", threshold=0.0, radius=1.0)])
def test_a_change_into_another_space_has_to_bring_everything(other: MethodParameters) -> None:
    codebooks = books()
    publish(codebooks, update_of("a", 1, [entry_of(1)], rule=fitted(), space=make_space()))
    publish(codebooks, update_of("b", 1, [], rule=fitted("e"), space=make_space(1)))
    assert code_of(codebooks, "a", 2, [], base=1, rule=other) == "space_missing"
    width = RANK + BUCKETS if other.space else D_IN + (LIFT if other.radius else 0)
    view = publish(codebooks, update_of("a", 2, [entry_of(1, width)], rule=other))
    assert torch.equal(open_table(codebooks, view).keys, entry_of(1, width)[1].keys)


@pytest.mark.parametrize(
    ("space", "width"),
    [(make_space(d_in=D_IN + 1), RANK + BUCKETS), (make_space(), D_IN), (make_space(buckets=0), RANK + BUCKETS)],
)
def test_a_space_or_keys_of_another_width_are_refused(space: RoutingSpace, width: int) -> None:
    assert code_of(books(), "a", 1, [entry_of(1, width)], rule=fitted(), space=space) == "wrong_shape"


def test_a_space_counts_against_the_budget_of_keys() -> None:
    assert code_of(books(RANK), "a", 1, [], rule=fitted(), space=make_space()) == "capacity_exhausted"
    tight = books(RANK + 2)
    assert code_of(tight, "a", 1, [entry_of(1)], rule=fitted(), space=make_space()) == "capacity_exhausted"
    assert len(tight.store.spaces) == 0
    publish(tight, update_of("a", 1, [], rule=fitted(), space=make_space()))


def test_a_rank_holds_its_columns_of_a_space_and_whole_keys() -> None:
    space, half = make_space(), D_IN // 2
    for rank in (0, 1):
        store = make_store(d_in=half, shard=(rank, 2))
        codebooks = PagedCodebooks(store, texts=spoken_texts())
        view = publish(codebooks, update_of("a", 1, [entry_of(1)], rule=fitted(), space=space))
        assert view.space is not None
        columns = slice(rank * half, (rank + 1) * half)
        assert torch.equal(view.space.space.matrix, space.matrix[:, columns])
        assert torch.equal(view.space.space.mean, space.mean[columns])
        assert torch.equal(open_table(codebooks, view).keys, entry_of(1)[1].keys)


def test_codebooks_with_radii_need_whole_inputs() -> None:
    codebooks = PagedCodebooks(make_store(d_in=D_IN // 2, shard=(0, 2)))
    rule = MethodParameters(preset="grace", threshold=0.0, radius=1.0)
    assert code_of(codebooks, "a", 1, [], rule=rule) == "unsupported_engine_mode"
