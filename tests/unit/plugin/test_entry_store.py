"""Entries in their rows: shared by revisions, freed with the last, sharded, and never left behind by a refusal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.entries import EntryStore, KeyLayout, ResidentEntry
from horen_vllm.plugin.row_writer import RowWriter
from tests.unit.plugin.entries import (
    D_IN,
    D_OUT,
    make_entry,
    make_store,
    pack_of,
    parameters,
    unowned_rows_are_poison,
    used_rows,
)


def layout_of(store: EntryStore) -> KeyLayout:
    return store.layout(parameters(), None)


def keys_of(store: EntryStore, resident: ResidentEntry) -> torch.Tensor:
    rows = store.key_rows(resident.key_width)
    return rows[resident.key_row : resident.key_row + resident.row.keys]


def placed(store: EntryStore, num_keys: int = 2, span: int = 3, *, seed: int = 0) -> ResidentEntry:
    entry = make_entry("e", seed=seed, num_keys=num_keys, span=span)
    entry_pack = pack_of([(1, entry)])
    resident = store.place(entry_pack.rows[0], layout_of(store))
    store.retain(resident)
    keys, values = RowWriter(entry_pack.keys), RowWriter(entry_pack.values)
    keys.add(0, resident.key_row, num_keys)
    values.add(0, resident.value_row, span)
    store.write(keys, values, layout_of(store))
    return resident


def test_an_entrys_rows_hold_its_keys_and_values() -> None:
    store, entry = make_store(), make_entry("e", seed=4, num_keys=2, span=3)
    placed(store)
    resident = placed(store, seed=4)
    assert torch.equal(keys_of(store, resident), entry.keys)
    assert torch.equal(store.values[resident.value_row : resident.value_row + 3], entry.values)
    assert used_rows(store) == (4, 6)
    assert unowned_rows_are_poison(store)


def test_values_take_the_models_dtype_and_keys_stay_float32() -> None:
    store = make_store(dtype=torch.bfloat16)
    resident, entry = placed(store), make_entry("e", num_keys=2, span=3)
    assert (store.keys.dtype, store.values.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(store.values[resident.value_row], entry.values[0].bfloat16())


def test_pages_add_up_to_the_budget() -> None:
    store = make_store(num_keys=10, num_values=7)
    placed(store)
    assert store.pages() == {
        "keys": {"used": 2 * D_IN, "free": 8 * D_IN, "budget": 10 * D_IN, "bytes": 4},
        "values": {"used": 3, "free": 4, "budget": 7, "bytes": store.values.element_size() * D_OUT},
    }


def test_rows_are_freed_with_the_last_revision_that_has_them() -> None:
    store = make_store()
    resident = placed(store)
    store.retain(resident)
    store.release([resident])
    assert used_rows(store) == (2, 3)
    assert unowned_rows_are_poison(store)
    store.release([resident])
    assert used_rows(store) == (0, 0)
    assert unowned_rows_are_poison(store)


def test_without_poison_unowned_rows_are_numbers() -> None:
    store = EntryStore(
        d_in=D_IN, d_out=D_OUT, key_numbers=4 * D_IN, num_values=4, dtype=torch.float16, device=torch.device("cpu")
    )
    resident = placed(store, span=2)
    store.release([resident])
    assert used_rows(store) == (0, 0)
    assert store.keys.isfinite().all()
    assert store.values.isfinite().all()


@pytest.mark.parametrize(("num_keys", "num_values"), [(1, 9), (9, 2)])
def test_an_entry_that_finds_no_room_takes_nothing(num_keys: int, num_values: int) -> None:
    store = make_store(num_keys, num_values)
    with pytest.raises(FailedPrecondition) as caught:
        placed(store)
    assert caught.value.code == "capacity_exhausted"
    assert used_rows(store) == (0, 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_holds_its_half_of_each_key_and_whole_values(rank: int) -> None:
    half = D_IN // 2
    store, entry = make_store(d_in=half, shard=(rank, 2)), make_entry("e", num_keys=2, span=3)
    store.check_widths(pack_of([(1, entry)]), layout_of(store))
    resident = placed(store)
    kept = keys_of(store, resident)
    assert torch.equal(kept, entry.keys[:, rank * half : (rank + 1) * half])
    assert torch.equal(store.values[resident.value_row : resident.value_row + 3], entry.values)


def test_the_halves_of_a_key_come_to_stand_together_again() -> None:
    stores = [make_store(d_in=D_IN // 2, shard=(rank, 2)) for rank in (0, 1)]
    whole = torch.cat([keys_of(store, placed(store, seed=9)) for store in stores], dim=1)
    assert torch.equal(whole, make_entry("e", seed=9, num_keys=2).keys)


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_other_widths_are_refused(shard: tuple[int, int]) -> None:
    store = make_store(d_in=D_IN // shard[1], shard=shard)
    store.check_widths(pack_of([(1, make_entry("e"))]), layout_of(store))
    store.check_widths(pack_of([]), layout_of(store))
    wrong = [
        make_entry("e", keys=torch.ones(1, D_IN + 2)),
        make_entry("e", keys=torch.ones(1, D_IN // 2)),
        make_entry("e", values=torch.ones(2, D_OUT + 1)),
    ]
    for entry in wrong:
        with pytest.raises(FailedPrecondition) as caught:
            store.check_widths(pack_of([(1, entry)]), layout_of(store))
        assert caught.value.code == "wrong_shape"


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=8), data=st.data())
def test_rows_come_to_stand_where_they_belong_however_their_copies_are_joined(
    counts: list[tuple[int, int]], data: st.DataObject
) -> None:
    total = sum(count for count, _ in counts)
    source = torch.randn(total, D_IN)
    expected = torch.full((total + 2 * len(counts), D_IN), torch.nan)
    buffer, writer, target = expected.clone(), RowWriter(source), 0
    sources = [(sum(count for count, _ in counts[:index]), count) for index, (count, _) in enumerate(counts)]
    for (row, count), (_, gap) in zip(data.draw(st.permutations(sources) | st.just(sources)), counts, strict=True):
        expected[target : target + count] = source[row : row + count]
        writer.add(row, target, count)
        target += count + gap
    writer.copy_into(buffer, slice(None))
    assert torch.equal(buffer.view(torch.int32), expected.view(torch.int32))
