"""Inject: values added to the site's output, or put in its place, at the answer positions of matched requests.

Architecture.md, *Inject*.

Shapes: T rows of the batch, H width of the site's output, S slots, V rows of the value buffer, r LoRA rank.
"""

import torch
import triton
import triton.language as tl

from horen_vllm.core.values import NO_VALUE, REPLACED

_NO_VALUE = tl.constexpr(NO_VALUE)
_REPLACED = tl.constexpr(REPLACED)


@triton.jit
def inject_kernel(
    p_outputs: tl.tensor,
    p_token_slot: tl.tensor,
    p_positions: tl.tensor,
    p_answer_start: tl.tensor,
    p_value_row: tl.tensor,
    p_span: tl.tensor,
    p_chunk: tl.tensor,
    p_rank: tl.tensor,
    p_values: tl.tensor,
    output_stride: tl.tensor,
    value_stride: tl.tensor,
    slot_stride: tl.tensor,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
) -> None:
    """Write one row of the batch, or leave it alone. Grid: (T,)."""
    i_t = tl.program_id(0).to(tl.int64)
    slot = tl.load(p_token_slot + i_t).to(tl.int64)
    if slot >= 0:
        at = slot * slot_stride
        first = tl.load(p_value_row + at).to(tl.int64)
        offset = tl.load(p_positions + i_t).to(tl.int64) - tl.load(p_answer_start + slot).to(tl.int64)
        span = tl.load(p_span + at).to(tl.int64)
        if (first != _NO_VALUE) & (offset >= 0) & (offset < span):
            i_h = tl.arange(0, BLOCK_H)
            inside = i_h < H
            p_row = p_outputs + i_t * output_stride + i_h
            b_row = tl.load(p_row, mask=inside, other=0.0).to(tl.float32)
            rank = tl.load(p_rank + at).to(tl.int32)
            if rank <= 0:
                # In 32 bits, where a device divides in a few instructions.
                value = offset.to(tl.int32) // tl.load(p_chunk + at).to(tl.int32)
                p_value = p_values + (first + value) * value_stride + i_h
                b_value = tl.load(p_value, mask=inside, other=0.0).to(tl.float32)
                b_new = tl.where(rank == _REPLACED, b_value, b_row + b_value)
            else:
                b_delta = tl.zeros([BLOCK_H], dtype=tl.float32)
                for k in range(rank):
                    p_down = p_values + (first + k) * value_stride + i_h
                    b_down = tl.load(p_down, mask=inside, other=0.0).to(tl.float32)
                    b_up = tl.load(p_down + rank * value_stride, mask=inside, other=0.0).to(tl.float32)
                    b_delta += tl.sum(b_row * b_down, axis=0) * b_up
                b_new = b_row + b_delta
            tl.store(p_row, b_new.to(p_outputs.dtype.element_ty), mask=inside)


def inject_triton(
    outputs_TH: torch.Tensor,
    token_slot_T: torch.Tensor,
    positions_T: torch.Tensor,
    answer_start_S: torch.Tensor,
    value_row_S: torch.Tensor,
    span_S: torch.Tensor,
    chunk_S: torch.Tensor,
    rank_S: torch.Tensor,
    values_VH: torch.Tensor,
) -> None:
    """Launch `inject_kernel`; same contract as `inject_torch`, one launch, fit for a CUDA graph.

    Raises
    ------
    ValueError
        If the slot table's last four columns have different strides.
    """
    rows, width = outputs_TH.shape
    strides = {column.stride(0) for column in (value_row_S, span_S, chunk_S, rank_S)}
    if len(strides) != 1:
        raise ValueError(f"the columns of the slot table have strides {sorted(strides)}, expected one")
    if rows == 0:
        return
    block = triton.next_power_of_2(width)
    inject_kernel[(rows,)](
        outputs_TH,
        token_slot_T,
        positions_T,
        answer_start_S,
        value_row_S,
        span_S,
        chunk_S,
        rank_S,
        values_VH,
        outputs_TH.stride(0),
        values_VH.stride(0),
        strides.pop(),
        H=width,
        BLOCK_H=block,
        num_warps=inject_warps(block),
    )


def inject_warps(block: int) -> int:
    """Return the warps of a program that holds `block` columns: 16 of them a thread, with 4 to 16 warps."""
    return min(max(block // 512, 4), 16)


def inject_torch(
    outputs_TH: torch.Tensor,
    token_slot_T: torch.Tensor,
    positions_T: torch.Tensor,
    answer_start_S: torch.Tensor,
    value_row_S: torch.Tensor,
    span_S: torch.Tensor,
    chunk_S: torch.Tensor,
    rank_S: torch.Tensor,
    values_VH: torch.Tensor,
) -> None:
    """Write values to the rows of `outputs_TH` that have one, in place; no other row is written.

    Row t has one when its slot s is not -1, ``value_row[s]`` is not `NO_VALUE` and its answer position
    ``j = positions[t] - answer_start[s]`` lies in [0, span[s]). Rank 0 adds the vector at
    ``value_row[s] + j // chunk[s]``; rank `REPLACED` puts that vector in the row's place, whatever the row held.
    Rank r adds ``sum_k (h . A_k) B_k`` of the row h itself, with A_k at ``value_row[s] + k`` and B_k r rows later, in
    fp32 and rounded once. Reads the number of such rows back to the host.

    Parameters
    ----------
    outputs_TH
        [T, H] float32, bfloat16 or float16, rows contiguous, changed in place.
    token_slot_T, positions_T
        [>= T] int; slot -1 is for padding and for requests without a codebook.
    answer_start_S, value_row_S, span_S, chunk_S, rank_S
        [S] int, the slot table; the last four may be columns of one tensor. A chunk is at least 1.
    values_VH
        [V, H] value buffer.
    """
    count = outputs_TH.shape[0]
    slot_T = token_slot_T[:count].long()
    owner_T = slot_T.clamp(min=0)
    offset_T = positions_T[:count] - answer_start_S[owner_T]
    written_T = (slot_T >= 0) & (value_row_S[owner_T] != NO_VALUE) & (offset_T >= 0) & (offset_T < span_S[owner_T])
    rows = written_T.nonzero(as_tuple=True)[0]
    if rows.shape[0] == 0:
        return
    owner = owner_T[rows]
    rank_R = rank_S[owner]
    direct, replaced = rank_R == 0, rank_R == REPLACED
    value = value_row_S[owner] + offset_T[rows] // chunk_S[owner]
    outputs_TH[rows[direct]] += values_VH[value[direct]]
    outputs_TH[rows[replaced]] = values_VH[value[replaced]].to(outputs_TH.dtype)
    for slot in sorted(set(owner[rank_R > 0].tolist())):
        first, rank = int(value_row_S[slot]), int(rank_S[slot])
        _add_low_rank(outputs_TH, rows[owner == slot], values_VH[first : first + 2 * rank].float())


def _add_low_rank(outputs_TH: torch.Tensor, rows: torch.Tensor, factors: torch.Tensor) -> None:
    down_rH, up_rH = factors.chunk(2)
    before = outputs_TH[rows].float()
    # A matrix product's rounding may depend on how many rows it has, and rows are independent.
    weights = (before[:, None] * down_rH).sum(dim=-1)
    delta = (weights[..., None] * up_rH).sum(dim=1)
    outputs_TH[rows] = (before + delta).to(outputs_TH.dtype)
