"""Pool: sums of site inputs over ranges of the flattened batch, one running sum a slot (section 2.2).

Shapes: T rows of the batch, D width of the site's input, S slots, R ranges.
"""

import torch
import triton
import triton.language as tl

BLOCK_T = 32
BLOCK_D = 128


@triton.jit
def pool_kernel(
    p_inputs: tl.tensor,
    p_sums: tl.tensor,
    p_starts: tl.tensor,
    p_stops: tl.tensor,
    p_slots: tl.tensor,
    p_restarts: tl.tensor,
    input_stride: tl.tensor,
    sum_stride: tl.tensor,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Add one range's rows to its slot, for one block of columns. Grid: (blocks of D, R)."""
    i_range = tl.program_id(1)
    i_d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = i_d < D
    start = tl.load(p_starts + i_range).to(tl.int64)
    stop = tl.load(p_stops + i_range).to(tl.int64)
    slot = tl.load(p_slots + i_range).to(tl.int64)
    if slot >= 0:
        b_sum = tl.zeros([BLOCK_T, BLOCK_D], dtype=tl.float32)
        for first in range(start, stop, BLOCK_T):
            i_t = first + tl.arange(0, BLOCK_T)
            mask = (i_t < stop)[:, None] & inside[None, :]
            b_rows = tl.load(p_inputs + i_t[:, None] * input_stride + i_d[None, :], mask=mask, other=0.0)
            b_sum += b_rows.to(tl.float32)
        p_sum = p_sums + slot * sum_stride + i_d
        b_new = tl.sum(b_sum, axis=0)
        # The old sum is not even read on a restart: it may be another request's, or not a number.
        if tl.load(p_restarts + i_range) == 0:
            b_new += tl.load(p_sum, mask=inside, other=0.0)
        tl.store(p_sum, b_new, mask=inside)


def pool_triton(
    inputs_TD: torch.Tensor,
    sums_SD: torch.Tensor,
    starts_R: torch.Tensor,
    stops_R: torch.Tensor,
    slots_R: torch.Tensor,
    restarts_R: torch.Tensor,
) -> None:
    """Launch `pool_kernel`; same contract as `pool_torch`, without a look at the device's numbers."""
    width, ranges = inputs_TD.shape[1], starts_R.shape[0]
    if ranges == 0:
        return
    pool_kernel[(triton.cdiv(width, BLOCK_D), ranges)](
        inputs_TD,
        sums_SD,
        starts_R,
        stops_R,
        slots_R,
        restarts_R,
        inputs_TD.stride(0),
        sums_SD.stride(0),
        D=width,
        BLOCK_T=BLOCK_T,
        BLOCK_D=BLOCK_D,
    )


def pool_torch(
    inputs_TD: torch.Tensor,
    sums_SD: torch.Tensor,
    starts_R: torch.Tensor,
    stops_R: torch.Tensor,
    slots_R: torch.Tensor,
    restarts_R: torch.Tensor,
) -> None:
    """Set ``sums[slot] = (0 if restart else sums[slot]) + inputs[start:stop].sum(0)`` for each range, in fp32.

    A range's result depends neither on the other ranges nor on how many there are. Reads the ranges back to
    the host.

    Parameters
    ----------
    inputs_TD
        [T, D] float32, bfloat16 or float16, rows contiguous.
    sums_SD
        [S, D] float32, changed in place.
    starts_R, stops_R
        [R] int, half-open row ranges; an empty one adds nothing.
    slots_R
        [R] int, distinct; -1 marks padding, which is skipped.
    restarts_R
        [R] int or bool, whether the old sum is dropped.
    """
    columns = (starts_R.tolist(), stops_R.tolist(), slots_R.tolist(), restarts_R.tolist())
    for start, stop, slot, restart in zip(*columns, strict=True):
        if slot < 0:
            continue
        fresh_D = inputs_TD[start:stop].sum(dim=0, dtype=torch.float32)
        sums_SD[slot] = fresh_D if restart else sums_SD[slot] + fresh_D
