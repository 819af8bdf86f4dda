"""The pool kernel against fp64 sums, in every dtype, on poisoned memory."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.kernels.pool import pool_torch, pool_triton

Range = tuple[int, int, int, int]
WIDE = 7


def columns(ranges: list[Range]) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=torch.int64) for column in zip(*ranges, strict=True)]


@st.composite
def ranges_of(draw: st.DrawFn, rows: int, slots: int) -> list[Range]:
    chosen = draw(st.lists(st.integers(0, slots - 1), min_size=1, max_size=slots, unique=True))
    made = []
    for slot in chosen:
        start = draw(st.integers(0, rows))
        made.append((start, draw(st.integers(start, rows)), draw(st.sampled_from((slot, -1))), draw(st.integers(0, 1))))
    return made


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    rows=st.sampled_from((1, 31, 32, 33, 70)),
    width=st.sampled_from((1, 127, 128, 130)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
    seed=st.integers(0, 2**31),
)
def test_sums_of_ranges(data: st.DataObject, rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slots = 5
    ranges = data.draw(ranges_of(rows, slots))
    # A view of a wider tensor: rows are not next to each other, and what lies between them is no number.
    inputs = torch.full((rows, width + WIDE), torch.nan, dtype=dtype)[:, :width]
    inputs.copy_(torch.randn(rows, width, generator=generator))
    before = torch.randn(slots, width, generator=generator)
    for _, _, slot, restart in ranges:
        if restart and slot >= 0:
            before[slot] = torch.nan
    expected = before.double()
    for start, stop, slot, restart in ranges:
        if slot >= 0:
            expected[slot] = inputs[start:stop].double().sum(0) + (0 if restart else before[slot].double())
    for form in (pool_triton, pool_torch):
        sums = before.clone()
        form(inputs, sums, *columns(ranges))
        torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
        idle = [slot for slot in range(slots) if slot not in {row[2] for row in ranges}]
        assert torch.equal(sums[idle].view(torch.int32), before[idle].view(torch.int32))


def test_a_range_does_not_depend_on_the_others() -> None:
    inputs = torch.randn(90, 130, generator=torch.Generator().manual_seed(3)).bfloat16()
    ranges = [(0, 33, 0, 1), (40, 90, 1, 0), (33, 40, 2, 1), (5, 88, 3, 0)]
    together = torch.ones(4, 130)
    pool_triton(inputs, together, *columns(ranges))
    for one in ranges:
        alone = torch.ones(4, 130)
        pool_triton(inputs, alone, *columns([one]))
        assert torch.equal(alone[one[2]], together[one[2]])


def test_no_ranges() -> None:
    sums = torch.ones(2, 3)
    empty = [torch.zeros(0, dtype=torch.int64)] * 4
    for form in (pool_triton, pool_torch):
        form(torch.ones(4, 3), sums, *empty)
    assert bool((sums == 1).all())
