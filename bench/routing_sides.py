"""What the routing benchmark compares: ours, the three-pass definition, GEMM and top-k, FAISS flat, a plain copy."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch

from bench.routing_books import METHODS, MIB, Keys, forms_of
from bench.routing_clock import Side
from horen_vllm.core.match import KeyTable, Routed, route_tensors
from horen_vllm.core.presets import MethodParameters
from horen_vllm.kernels import dispatch
from horen_vllm.kernels.groups import RouteGroup, RouteRule
from horen_vllm.kernels.route import route_triton
from horen_vllm.kernels.route_cpu import route_counted

OURS, MATRIX, THREE, GEMM, FAISS, COPY = (
    "ours", "ours_matrix_units", "three_passes", "gemm_top_k", "faiss_flat", "copy",
)  # fmt: skip
ONE_CALL, SINGLE_CALLS = "one_call", "single_calls"
_COPIED_ON_CPU: Final = 256 * MIB
_COPIED_ON_GPU: Final = 2048 * MIB


@dataclass(frozen=True, slots=True)
class Copy:
    """A plain copy into memory that is there already.

    Attributes
    ----------
    moved
        Bytes that are read and written.
    """

    run: Callable[[], object]
    moved: int


def copy_of(keys: Keys) -> Copy:
    """Return a copy of all keys, block by block into one buffer; on a GPU one large copy, whatever the keys."""
    if keys.buffer.is_cuda:
        source, target = (torch.zeros(_COPIED_ON_GPU // 4, device="cuda") for _ in range(2))
        return Copy(partial(target.copy_, source), 2 * _COPIED_ON_GPU)
    blocks = torch.split(keys.buffer, max(1, _COPIED_ON_CPU // (4 * keys.buffer.shape[1])))
    room = torch.zeros_like(blocks[0])

    def run() -> None:
        for block in blocks:
            room[: len(block)].copy_(block)

    return Copy(run, 2 * keys.bytes)


def sides_of(keys: Keys, copy: Copy, *, memory: int) -> dict[str, Side]:
    """Return all sides: of a method ``name:method``, of ours ``name:form``, the others alone.

    FAISS is among them where its copy fits in `memory` MiB.
    """
    sides: dict[str, Side] = {}
    for method, rule in METHODS.items():
        sides |= {f"{OURS}:{form}": _ours(keys, own) for form, own in forms_of(method).items()}
        sides[f"{THREE}:{method}"] = _three_passes(keys, rule)
        if keys.buffer.is_cuda and not rule["steps"]:
            sides[f"{MATRIX}:{method}"] = partial(_ours_by_matrix_units, keys, rule)
    sides[GEMM] = partial(_gemm_top_k, keys.buffer)
    if not keys.buffer.is_cuda and 2 * keys.bytes <= memory * MIB:
        sides[FAISS] = _faiss_flat(keys.buffer)
    sides[COPY] = lambda _queries: copy.run()
    return sides


def keys_read_again(keys: Keys, queries: torch.Tensor, rule: dict[str, Any]) -> float | None:
    """Return the mean share of the keys that our route reads a second time; None on a GPU, which does not count."""
    if keys.buffer.is_cuda:
        return None
    _, shares = route_counted(queries, keys.buffer, keys.numbers, keys.numbers, keys.numbers, **rule)
    return float(shares.again.double().mean()) / len(keys.numbers)


def mixed_groups(keys: Keys, books: int, rule: dict[str, Any]) -> list[RouteGroup]:
    """Return codebooks of as good as the same size that have all keys together, each asked once."""
    groups = []
    for rows in torch.tensor_split(keys.numbers, books):
        owners = rows - rows[0]
        groups.append(RouteGroup(1, rows, owners, owners, RouteRule(**rule)))
    return groups


def mixed_sides(keys: Keys, groups: list[RouteGroup]) -> dict[str, Side]:
    """Return one call for all codebooks, as the plugin makes it in a step, and a call for each of them."""

    def one_call(queries: torch.Tensor) -> Routed:
        return dispatch.route_mixed(queries, keys.buffer, groups)

    def single_calls(queries: torch.Tensor) -> list[Routed]:
        return [
            dispatch.route(query[None], keys.buffer, g.key_rows, g.owners, g.sequences, **asdict(g.rule))
            for query, g in zip(queries, groups, strict=True)
        ]

    return {ONE_CALL: one_call, SINGLE_CALLS: single_calls}


def _ours(keys: Keys, rule: dict[str, Any]) -> Side:
    numbers = keys.numbers
    return lambda queries: dispatch.route(queries, keys.buffer, numbers, numbers, numbers, **rule)


def _ours_by_matrix_units(keys: Keys, rule: dict[str, Any], queries: torch.Tensor) -> Routed:
    return route_triton(queries, keys.buffer, keys.numbers, keys.numbers, keys.numbers, **rule, matrix=True)


def _three_passes(keys: Keys, rule: dict[str, Any]) -> Side:
    table = KeyTable(keys.buffer, keys.numbers, keys.numbers)
    parameters = MethodParameters(preset="bench", **rule)
    return lambda queries: route_tensors(queries, table, parameters)


def _gemm_top_k(buffer: torch.Tensor, queries: torch.Tensor) -> object:
    return (queries @ buffer.T).topk(min(2, len(buffer)))


def _faiss_flat(buffer: torch.Tensor) -> Side:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(buffer.shape[1])
    index.add(buffer.numpy())
    return lambda queries: index.search(queries.numpy(), 2)
