"""Which form runs: the Triton kernels for CUDA tensors; for all others torch, and numba's loops where keys are read."""

from collections.abc import Sequence
from typing import Any

import torch

from horen_vllm.core.match import Routed
from horen_vllm.kernels.groups import RouteGroup
from horen_vllm.kernels.inject import inject_torch, inject_triton
from horen_vllm.kernels.pool import pool_torch, pool_triton
from horen_vllm.kernels.route import route_mixed_triton, route_triton
from horen_vllm.kernels.route_cpu import route_cpu, route_mixed_cpu


def warm_up(keys_PD: torch.Tensor, dtype: torch.dtype) -> None:
    """Compile the pool and route kernels for this key buffer and for site inputs of `dtype`.

    Afterwards no request waits for the compiler: no other number of rows, ranges, keys or steps compiles again.
    `inject` is compiled by the first pass through the site.
    """
    if keys_PD.is_cuda:
        zero = torch.zeros(1, dtype=torch.int64, device=keys_PD.device)
        row_1D = torch.zeros_like(keys_PD[:1])
        pool(row_1D.to(dtype), row_1D, zero, zero, zero, zero)
    warm_up_route(keys_PD)


def warm_up_route(keys_PD: torch.Tensor) -> None:
    """Compile the route kernels for keys of this width, in all forms; on a CPU once for all widths."""
    zero = torch.zeros(1, dtype=torch.int64, device=keys_PD.device)
    query_1D = torch.zeros_like(keys_PD[:1])
    rule: dict[str, Any] = {"beta": 1.0, "gamma": 0.5, "epsilon": 0.0, "threshold": 0.0}
    for steps, sure_above in ((0, None), (1, None), (1, 0.0)):
        route(query_1D, keys_PD, zero, zero, zero, **rule, steps=steps, sure_above=sure_above)


def pool(
    inputs_TD: torch.Tensor,
    sums_SD: torch.Tensor,
    starts_R: torch.Tensor,
    stops_R: torch.Tensor,
    slots_R: torch.Tensor,
    restarts_R: torch.Tensor,
) -> None:
    """Add ranges of site inputs to the slots' sums in place; parameters as `pool_torch` says."""
    form = pool_triton if inputs_TD.is_cuda else pool_torch
    form(inputs_TD, sums_SD, starts_R, stops_R, slots_R, restarts_R)


def route(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    threshold: float,
    directions: bool = True,
    sure_above: float | None = None,
) -> Routed:
    """Route queries through a revision's keys; parameters as `route_cpu` says."""
    form = route_triton if queries_BD.is_cuda else route_cpu
    return form(
        queries_BD,
        keys_PD,
        key_rows_N,
        owners_N,
        sequences_E,
        beta=beta,
        gamma=gamma,
        steps=steps,
        epsilon=epsilon,
        threshold=threshold,
        directions=directions,
        sure_above=sure_above,
    )


def route_mixed(queries_BD: torch.Tensor, keys_PD: torch.Tensor, groups: Sequence[RouteGroup]) -> Routed:
    """Route queries of several groups through the keys of each; on a GPU in one sequence of launches.

    Each row's result is what `route` returns for its group, to the bit, whoever else is in the batch. Nothing is read
    back to the host, and no other number of groups, queries, keys or steps compiles anything.

    Parameters
    ----------
    queries_BD
        [B, D] float32, unrefined, group after group.
    keys_PD
        [P, D] float32, the paged buffer of all groups.
    groups
        In the order of the queries, which they cover together.
    """
    form = route_mixed_triton if queries_BD.is_cuda else route_mixed_cpu
    return form(queries_BD, keys_PD, groups)


def inject(
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
    """Add values to the rows that have one, in place; parameters as `inject_torch` says."""
    form = inject_triton if outputs_TH.is_cuda else inject_torch
    form(
        outputs_TH,
        token_slot_T,
        positions_T,
        answer_start_S,
        value_row_S,
        span_S,
        chunk_S,
        rank_S,
        values_VH,
    )
