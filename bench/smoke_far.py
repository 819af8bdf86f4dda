"""Rows at the end of buffers of more than 2^31 numbers: an offset that is cut to 32 bits reads another place.

What such an offset would read is not a number, so that it cannot go unseen.
"""

from typing import Any, Final

import torch
from torch.nn import functional as F

from bench.smoke_definition import Report, against_definition
from horen_vllm.kernels.inject import inject_torch, inject_triton
from horen_vllm.kernels.route import route_triton

FAR_NUMBERS: Final = 2**31
_KEYS: Final = 40


def far_buffer(width: int, numbers: int, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a buffer of NaN with more than `numbers` numbers, and the rows that begin behind so many."""
    first = -(-numbers // width) + 1
    buffer = torch.full((first + rows, width), torch.nan, dtype=dtype)
    return buffer, torch.arange(first, first + rows)


def far_route(width: int, numbers: int) -> Report:
    """Check decisions among keys that lie at the end of a large buffer, without refinement and with it."""
    buffer, rows = far_buffer(width, numbers, _KEYS, torch.float32)
    buffer[rows] = F.normalize(torch.randn(_KEYS, width), dim=-1)
    owners, queries = torch.arange(_KEYS), F.normalize(buffer[rows[3:6]] + 0.1 * buffer[rows[7:10]], dim=-1)
    worst, right = 0.0, True
    for gamma, steps, matrix in ((0.0, 0, False), (0.0, 0, True), (0.1, 1, False)):
        rule: dict[str, Any] = {"beta": 20.0, "gamma": gamma, "steps": steps, "epsilon": 1e-5, "threshold": 0.5}
        routed = route_triton(queries, buffer, rows, owners, owners, **rule, matrix=matrix)
        error, sure = against_definition(queries, buffer[rows], owners, routed, rule)
        worst, right = max(worst, error), right and sure
    # False for an error that is not a number, too.
    passed = right and worst < 1e-6
    return f"route beyond {numbers} numbers, D={width}", passed, f"largest error {worst:.1e}, decisions right: {right}"


def far_inject(width: int, numbers: int) -> Report:
    """Check values that lie at the end of a large buffer: direct ones and LoRA factors."""
    values, rows = far_buffer(width, numbers, 8, torch.bfloat16)
    values[rows] = torch.randn(8, width).bfloat16()
    slots = torch.tensor([0, 1, -1, 0])
    zero, span, chunk = torch.zeros(2, dtype=torch.int64), torch.tensor([4, 4]), torch.tensor([1, 4])
    first, rank = torch.stack([rows[0], rows[4]]), torch.tensor([0, 2])
    mine = torch.randn(4, width).bfloat16()
    theirs = mine.clone()
    arguments = (slots, torch.arange(4), zero, first, span, chunk, rank, values)
    inject_triton(mine, *arguments)
    inject_torch(theirs, *arguments)
    close = torch.allclose(mine.float(), theirs.float(), rtol=2e-2, atol=2e-1)
    return f"inject beyond {numbers} numbers", close, f"equal to torch but for rounding: {close}"
