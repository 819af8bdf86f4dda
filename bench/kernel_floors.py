"""What a kernel's time is held against: the bytes and operations it cannot do without, at this device's own rates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final

import torch
from torch.nn import functional as F

from bench.intervals import interval
from bench.routing_clock import Clock, Taken, paired
from horen_vllm.kernels.inject import inject_triton
from horen_vllm.kernels.pool import pool_triton
from horen_vllm.kernels.route import route_triton

BYTES, FP32, BF16 = "bytes", "fp32", "bf16"
_INDEX_BYTES: Final = 16
"""Of a key: its row and its owner."""
_PARTS: Final = 6
"""Products of bfloat16 parts for one of fp32."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is.

    Attributes
    ----------
    copied, product
        Bytes of the copy and rows of the square matrices by which the rates are measured.
    widths, keys
        Of codebooks.
    rows, inputs, outputs
        Of a step: tokens, and the site's widths.
    """

    copied: int
    product: int
    widths: Sequence[int]
    keys: Sequence[int]
    rows: int
    inputs: int
    outputs: int


DEVICE: Final = Sizes(2 << 30, 8192, (1024, 14336, 18944), (1000, 10_000, 50_000), 2048, 14336, 4096)


@dataclass(frozen=True, slots=True)
class Work:
    """A call, and what it cannot do without.

    Attributes
    ----------
    moved
        Bytes that have to be read or written once.
    operations
        Additions and multiplications.
    unit
        Which rate counts for them.
    """

    name: str
    moved: int
    operations: int
    unit: str
    run: Callable[[], object]


def measured_rates(sizes: Sizes, clock: Clock, rounds: int) -> dict[str, float]:
    """Return bytes a second of a copy, and operations a second of square products in fp32 and bf16.

    Products in fp32 are those of the plain units: the kernels use no TF32.
    """
    source, target = (torch.zeros(sizes.copied // 4) for _ in range(2))
    square = torch.randn(sizes.product, sizes.product)
    half = square.bfloat16()
    operations = 2 * sizes.product**3
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return {
            BYTES: _rate(partial(target.copy_, source), 2 * sizes.copied, clock, rounds),
            FP32: _rate(partial(torch.matmul, square, square), operations, clock, rounds),
            BF16: _rate(partial(torch.matmul, half, half), operations, clock, rounds),
        }
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def floor_of(work: Work, rates: Mapping[str, float]) -> tuple[float, str]:
    """Return the least seconds that a call can take, and what sets them: ``bytes`` or ``operations``."""
    moving, computing = work.moved / rates[BYTES], work.operations / rates[work.unit]
    return (moving, "bytes") if moving >= computing else (computing, "operations")


def measure_floors(sizes: Sizes, rates: Mapping[str, float], clock: Clock, rounds: int) -> list[dict[str, Any]]:
    """Return the time of every kernel beside its floor."""
    rows = []
    for width in sizes.widths:
        for keys in sizes.keys:
            rows += [_row(work, rates, _timed(work, clock, rounds)) for work in route_works(keys, width)]
    rows += [_row(work, rates, _timed(work, clock, rounds)) for work in step_works(sizes)]
    return rows


def route_works(keys: int, width: int) -> list[Work]:
    """Return route's calls on one codebook; no floor counts what is read again."""
    buffer = F.normalize(torch.randn(keys, width), dim=-1)
    owners = torch.arange(keys)
    moved = keys * (4 * width + _INDEX_BYTES)

    def work(name: str, batch: int, steps: int, *, matrix: bool = False, first: bool = False) -> Work:
        rule: dict[str, Any] = {"beta": 20.0, "gamma": 0.01, "steps": steps, "epsilon": 0.0, "threshold": 0.5}
        queries = buffer[:batch].clone()
        rule["sure_above"] = rule["threshold"] if first else None
        run = partial(route_triton, queries, buffer, owners, owners, owners, **rule, matrix=matrix)
        # The queries are keys themselves: first scores leave none open.
        products = _PARTS if matrix else 1 if first else 1 + steps
        operations = 2 * batch * keys * width * products
        return Work(f"route {name}, {keys} keys, D={width}", moved, operations, BF16 if matrix else FP32, run)

    many = min(16, keys)
    return [
        work("M=0", 1, 0),
        work("M=1", 1, 1),
        work("M=1, first scores", 1, 1, first=True),
        work(f"M=0, {many} queries", many, 0),
        work(f"M=1, {many} queries", many, 1),
        work(f"M=0, {many} queries, matrix units", many, 0, matrix=True),
    ]


def pool_arguments(sizes: Sizes) -> list[torch.Tensor]:
    """Return pool's arguments for a step whose tokens belong to four windows that begin anew."""
    rows = sizes.rows
    starts = torch.arange(4) * (rows // 4)
    inputs, sums = torch.randn(rows, sizes.inputs).bfloat16(), torch.zeros(4, sizes.inputs)
    return [inputs, sums, starts, starts + rows // 4, torch.arange(4), torch.ones(4, dtype=torch.int64)]


def inject_arguments(sizes: Sizes) -> list[torch.Tensor]:
    """Return inject's arguments for a step whose tokens all have one of four values."""
    rows = sizes.rows
    outputs, values = torch.randn(rows, sizes.outputs).bfloat16(), torch.randn(4, sizes.outputs).bfloat16()
    span, zero = torch.full((4,), rows), torch.zeros(4, dtype=torch.int64)
    return [outputs, torch.arange(rows) % 4, torch.arange(rows), zero, torch.arange(4), span, span, zero, values]


def step_works(sizes: Sizes) -> list[Work]:
    """Return pool and inject on a step that gives them as much to do as there is."""
    pooled, injected = pool_arguments(sizes), inject_arguments(sizes)
    (inputs, sums, *_), (outputs, *_) = pooled, injected
    pool_bytes = 2 * inputs.numel() + 4 * sums.numel()
    inject_bytes = 2 * 2 * outputs.numel() + 2 * injected[-1].numel()
    return [
        Work(pool_name(sizes), pool_bytes, inputs.numel(), FP32, partial(pool_triton, *pooled)),
        Work(inject_name(sizes), inject_bytes, outputs.numel(), FP32, partial(inject_triton, *injected)),
    ]


def pool_name(sizes: Sizes) -> str:
    """Return how a result names pool."""
    return f"pool, {sizes.rows} tokens, D={sizes.inputs}"


def inject_name(sizes: Sizes) -> str:
    """Return how a result names inject."""
    return f"inject, {sizes.rows} tokens, H={sizes.outputs}"


def _rate(run: Callable[[], object], amount: int, clock: Clock, rounds: int) -> float:
    return amount / median(clock.taken(run).seconds for _ in range(rounds))


def _timed(work: Work, clock: Clock, rounds: int) -> list[Taken]:
    found = paired({"": lambda _: work.run()}, {"": lambda _: torch.empty(0)}, rounds, clock)
    return found[""][""]


def _row(work: Work, rates: Mapping[str, float], times: Sequence[Taken]) -> dict[str, Any]:
    floor, limit = floor_of(work, rates)
    hosts = [taken.host for taken in times if taken.host is not None]
    return {
        "kernel": work.name,
        "milliseconds": 1e3 * median(taken.seconds for taken in times),
        "host_milliseconds": 1e3 * median(hosts) if hosts else None,
        "floor_milliseconds": 1e3 * floor,
        "floor_set_by": limit,
        "share_of_floor": interval([floor / taken.seconds for taken in times]),
    }
