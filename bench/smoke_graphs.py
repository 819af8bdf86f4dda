"""The kernels of a step in captured CUDA graphs, replayed with other tables, values and rows than at capture."""

from collections.abc import Callable, Sequence

import torch

from bench.smoke_definition import Report
from horen_vllm.kernels.inject import inject_torch, inject_triton
from horen_vllm.kernels.pool import pool_torch, pool_triton

_REPLAYS = 3
Step = Callable[[], tuple[list[torch.Tensor], torch.Tensor]]


def graph_inject(arguments: list[torch.Tensor], step: Step) -> Report:
    """Capture inject, and compare every replay with torch: LoRA rows within rounding, all others to the bit.

    Parameters
    ----------
    arguments
        Of inject, which the graph holds; slot 1 is LoRA.
    step
        Makes others.
    """
    graph = captured(lambda: inject_triton(*arguments))
    same = True
    for turn in range(_REPLAYS):
        fresh, _ = step()
        for static, new in zip(arguments, fresh, strict=True):
            static.copy_(new)
        arguments[1].copy_(fresh[1].roll(turn))
        expected = [argument.clone() for argument in arguments]
        inject_torch(*expected)
        graph.replay()
        same = same and injected_alike(arguments[0], expected[0], arguments[1])
    return "inject in a captured graph", same, f"{_REPLAYS} replays with other tables, values and rows"


def injected_alike(mine: torch.Tensor, theirs: torch.Tensor, slots: torch.Tensor, low_rank: int = 1) -> bool:
    """Return whether outputs [T, H] of 16 bits are equal to the bit, but those of slot `low_rank` within rounding."""
    direct = slots != low_rank
    bits = torch.equal(mine[direct].view(torch.int16), theirs[direct].view(torch.int16))
    return bits and torch.allclose(mine[~direct].float(), theirs[~direct].float(), rtol=2e-2, atol=2e-1)


def graph_pool(rows: int, width: int) -> Report:
    """Capture pool, and compare every replay with torch."""
    arguments = pool_step(rows, width, 0)
    graph = captured(lambda: pool_triton(*arguments))
    worst = 0.0
    for turn in range(1, _REPLAYS + 1):
        for static, new in zip(arguments, pool_step(rows, width, turn), strict=True):
            static.copy_(new)
        worst = max(worst, pool_error(arguments, graph.replay))
    return "pool in a captured graph", worst < 1e-3, f"{_REPLAYS} replays, largest error {worst:.1e}"


def pool_step(rows: int, width: int, turn: int) -> list[torch.Tensor]:
    """Return pool's arguments: four ranges, one of them padding, that begin anew or go on by turns."""
    cuts = torch.tensor([0, 5 + turn, rows // 2, rows - turn])
    restarts = (torch.arange(4) + turn) % 2
    slots = torch.tensor([0, 1, -1, 2]).roll(turn)
    return [torch.randn(rows, width).bfloat16(), torch.randn(4, width), cuts, cuts.roll(-1), slots, restarts]


def pool_error(arguments: Sequence[torch.Tensor], run: Callable[[], object]) -> float:
    """Return the largest difference of the sums that a run leaves in its arguments from torch's."""
    expected = [argument.clone() for argument in arguments]
    pool_torch(*expected)
    run()
    return float((arguments[1] - expected[1]).abs().max())


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Return a graph of work that has been done once before."""
    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
