"""The kernels on a device against their definitions in fp64, their bits, captured graphs, and route's speed.

On a CPU Triton's interpreter runs them at small sizes, which proves this file and nothing about a device.
``python -m bench.smoke_kernels`` makes the checks at small sizes on a GPU and ends with 1 when one fails:
`bench.kernels_gpu` runs it under compute-sanitizer.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch.nn import functional as F

from bench.smoke_definition import Report, against_definition, apart
from bench.smoke_far import FAR_NUMBERS, far_inject, far_route
from bench.smoke_graphs import graph_inject, graph_pool
from horen_vllm.core.match import Routed
from horen_vllm.kernels import dispatch
from horen_vllm.kernels.groups import RouteGroup, RouteRule
from horen_vllm.kernels.inject import inject_torch, inject_triton
from horen_vllm.kernels.pool import pool_triton
from horen_vllm.kernels.route import route_mixed_triton, route_triton


@dataclass(frozen=True)
class Sizes:
    """How large the checks are."""

    rows: int
    inputs: int
    outputs: int
    keys: int
    timed: tuple[int, ...]


DEVICE = Sizes(rows=2048, inputs=14336, outputs=4096, keys=10_000, timed=(1_000, 10_000, 50_000))
INTERPRETED = Sizes(rows=40, inputs=130, outputs=96, keys=300, timed=())
SANITIZED = Sizes(rows=100, inputs=1040, outputs=544, keys=300, timed=())
WIDE = 18944
"""Of keys that no program holds whole."""


def run(device: str) -> list[Report]:
    """Run all checks in this process; on a CPU it must have been started with ``TRITON_INTERPRET=1``."""
    sizes = DEVICE if device == "cuda" else INTERPRETED
    reports = check(device, sizes)
    with torch.device(device):
        if device == "cuda":
            reports += [graph_inject(_step(sizes, torch.bfloat16)[0], functools.partial(_step, sizes, torch.bfloat16))]
            reports += [graph_pool(sizes.rows, sizes.inputs), _compiles_once(sizes)]
            reports += [far_route(width, FAR_NUMBERS) for width in (sizes.inputs, WIDE)]
            reports += [far_inject(sizes.outputs, FAR_NUMBERS)]
            reports += [_timed(count, sizes.inputs) for count in sizes.timed]
    return reports


def check(device: str, sizes: Sizes) -> list[Report]:
    """Check the kernels against their definitions."""
    torch.manual_seed(0)
    with torch.device(device):
        return [*_pool(sizes), *_inject(sizes), *_route(sizes), _mixed(sizes)]


def _pool(sizes: Sizes) -> Iterator[Report]:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        inputs = torch.randn(sizes.rows, sizes.inputs).to(dtype)
        sums = torch.full((4, sizes.inputs), torch.nan)
        sums[2] = 1.0
        columns = [torch.tensor(column) for column in zip((0, 33, 0, 1), (33, sizes.rows, 2, 0), strict=True)]
        pool_triton(inputs, sums, *columns)
        expected = torch.stack([inputs[:33].double().sum(0), inputs[33:].double().sum(0) + 1])
        error = float((sums[[0, 2]].double() - expected).abs().max())
        untouched = bool(sums[[1, 3]].isnan().all())
        yield f"pool {dtype}", untouched and error < 1e-3, f"largest error {error:.1e}"


def _step(sizes: Sizes, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return inject's arguments and a mask of the rows that it writes: slot 0 in chunks, 1 LoRA, 2 without a value."""
    rows = torch.arange(24)
    slots = torch.tensor([0, 1, 2, -1])[rows % 4]
    first, span, chunk = torch.tensor([0, 8, -1]), torch.tensor([12, 9, 9]), torch.tensor([3, 9, 1])
    rank, start = torch.tensor([0, 4, 0]), torch.tensor([2, 2, 0])
    outputs = torch.randn(24, sizes.outputs).to(dtype)
    outputs[:, ::3] = -0.0
    outputs[3::4, 5] = torch.nan
    values = torch.randn(16, sizes.outputs).to(dtype)
    offset = rows - 2
    written = (slots >= 0) & (slots < 2) & (offset >= 0) & (offset < span[slots.clamp(min=0)])
    return [outputs, slots, rows, start, first, span, chunk, rank, values], written


def _inject(sizes: Sizes) -> Iterator[Report]:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        arguments, written = _step(sizes, dtype)
        before = arguments[0]
        mine, theirs = before.clone(), before.clone()
        inject_triton(mine, *arguments[1:])
        inject_torch(theirs, *arguments[1:])
        bits = torch.int32 if dtype is torch.float32 else torch.int16
        clean = torch.equal(mine[~written].view(bits), before[~written].view(bits))
        direct = written & (arguments[1] == 0)
        ulp = int((mine[direct].view(bits).int() - theirs[direct].view(bits).int()).abs().max())
        # The interpreter truncates to bfloat16.
        allowed = 1 if dtype is torch.bfloat16 and not before.is_cuda else 0
        low_rank = written & (arguments[1] == 1)
        close = torch.allclose(mine[low_rank].float(), theirs[low_rank].float(), rtol=2e-2, atol=2e-1)
        detail = f"direct rows {ulp} ulp apart, other rows untouched: {clean}, low rank close: {close}"
        yield f"inject {dtype}", clean and close and ulp <= allowed, detail


def _book(keys: int, width: int) -> tuple[torch.Tensor, ...]:
    made = F.normalize(torch.randn(keys, width), dim=-1)
    made[-1], made[keys // 2] = made[3], made[3]
    buffer = torch.full((keys + 50, width), torch.nan)
    rows = torch.randperm(keys + 50)[:keys]
    buffer[rows] = made
    return buffer, rows, torch.arange(keys) // 2, torch.randperm(keys)[: (keys + 1) // 2]


def _route(sizes: Sizes) -> Iterator[Report]:
    buffer, rows, owners, sequences = _book(sizes.keys, sizes.inputs)
    queries = F.normalize(buffer[rows[:4]] + 0.3 * torch.randn(4, sizes.inputs) / sizes.inputs**0.5, dim=-1)
    for gamma, steps in ((0.0, 0), (0.01, 1), (0.3, 3)):
        rule: dict[str, Any] = {"beta": 20.0, "gamma": gamma, "steps": steps, "epsilon": 1e-5, "threshold": 0.5}
        together = route_triton(queries, buffer, rows, owners, sequences, **rule)
        alone = [route_triton(query[None], buffer, rows, owners, sequences, **rule) for query in queries]
        independent = all(torch.equal(one.score[0], together.score[row]) for row, one in enumerate(alone))
        error, right = against_definition(queries, buffer[rows], owners, together, rule)
        detail = f"largest error {error:.1e}, decisions right: {right}, rows independent: {independent}"
        yield f"route M={steps}", right and independent and error < 1e-6, detail
    yield _settled(queries, (buffer, rows, owners, sequences), {**rule, "gamma": 0.01, "steps": 1})
    yield _matrix(queries, (buffer, rows, owners, sequences), {**rule, "gamma": 0.0, "steps": 0})
    copies = route_triton(buffer[rows[3]][None], buffer, rows, owners, sequences, **{**rule, "gamma": 0.0, "steps": 0})
    holders = owners[torch.tensor([3, sizes.keys // 2, sizes.keys - 1])]
    ranked = holders[sequences[holders].argsort(descending=True)].tolist()
    newest = [int(copies.best), int(copies.runner_up)] == ranked[:2]
    yield (
        "route equal keys",
        newest and bool(copies.score == copies.runner_up_score),
        f"entry {int(copies.best)} of {ranked}",
    )


def _settled(queries: torch.Tensor, book: tuple[torch.Tensor, ...], rule: dict[str, Any]) -> Report:
    """Check that first scores find the same entries, about a threshold that leaves one query open."""
    rule["threshold"] = float(route_triton(queries, *book, **rule).score[0])
    exact, found = (route_triton(queries, *book, **rule, sure_above=bound) for bound in (None, rule["threshold"]))
    alone = [route_triton(query[None], *book, **rule, sure_above=rule["threshold"]) for query in queries]
    independent = all(torch.equal(one.score[0], found.score[row]) for row, one in enumerate(alone))
    refined = [float(one) == float(other) for one, other in zip(exact.score, found.score, strict=True)]
    right = torch.equal(exact.entry, found.entry) and refined[0]
    detail = f"rows that were refined: {sum(refined)} of {len(refined)}, rows independent: {independent}"
    return "route by first scores", right and independent, detail


def _matrix(queries: torch.Tensor, book: tuple[torch.Tensor, ...], rule: dict[str, Any]) -> Report:
    """Check that first scores from the matrix units change no bit."""
    plain, matrix = (route_triton(queries, *book, **rule, matrix=units) for units in (False, True))
    differ = apart(plain, matrix)
    return "route by matrix units", not differ, f"columns that differ: {', '.join(differ) or 'none'}"


def _mixed(sizes: Sizes) -> Report:
    """Check that queries of many books, from empty to whole, have the bits of their own book's call."""
    buffer, rows, owners, sequences = _book(sizes.keys, sizes.inputs)
    groups, alone, queries = [], [], []
    for number, count in enumerate((3, sizes.keys, 0, 1, 17, sizes.keys // 2)):
        # A revision's columns may begin anywhere.
        own = slice(number % 3, number % 3 + count)
        rule = RouteRule(20.0 + number, 0.1, number % 3, 1e-5, 0.5, sure_above=0.5 if number == 1 else None)
        group = RouteGroup(1 + number % 2, rows[own], owners[own], sequences, rule)
        asked = F.normalize(torch.randn(group.queries, sizes.inputs), dim=-1)
        alone.append(_alone(asked, buffer, group))
        groups.append(group)
        queries.append(asked)
    together = route_mixed_triton(torch.cat(queries), buffer, groups)
    columns = ([getattr(routed, name) for routed in alone] for name in together.__slots__)
    differ = apart(together, Routed(*map(torch.cat, columns)))
    return "route many books at once", not differ, f"columns that differ: {', '.join(differ) or 'none'}"


def _alone(queries: torch.Tensor, buffer: torch.Tensor, group: RouteGroup) -> Routed:
    """Route the queries of one group by the kernels."""
    columns = (group.key_rows, group.owners, group.sequences)
    return route_triton(queries, buffer, *columns, **dataclasses.asdict(group.rule))


def _compiles_once(sizes: Sizes) -> Report:
    buffer, rows, owners, sequences = _book(100, sizes.inputs)
    dispatch.warm_up(buffer, torch.bfloat16)
    compiled: list[object] = []
    triton.knobs.compilation.listener = lambda **event: compiled.append(event)
    for count, batch, steps in ((1, 1, 0), (16, 2, 1), (17, 3, 3), (100, 16, 2)):
        rule: dict[str, Any] = {"beta": 20.0, "gamma": 0.1, "steps": steps, "epsilon": 1e-5, "threshold": 0.5}
        queries = F.normalize(torch.randn(batch, sizes.inputs), dim=-1)
        for sure_above in (None, 0.5):
            own = rows[:count].clone(), owners[:count].clone()
            dispatch.route(queries, buffer, *own, sequences, **rule, sure_above=sure_above)
        group = RouteGroup(batch, rows[1:count], owners[1:count], sequences, RouteRule(20.0, 0.1, steps, 1e-5, 0.5))
        dispatch.route_mixed(queries.repeat(count, 1), buffer, [group] * count)
        column = torch.arange(batch)
        sums = torch.zeros(batch, sizes.inputs)
        dispatch.pool(torch.randn(64, sizes.inputs).bfloat16(), sums, column, column + 3, column, column * 0)
    triton.knobs.compilation.listener = None
    return "nothing compiles after warm-up", not compiled, f"{len(compiled)} compilations"


def _timed(keys: int, width: int) -> Report:
    buffer = F.normalize(torch.randn(keys, width), dim=-1)
    owners = torch.arange(keys)
    query = buffer[:1].clone()

    def route(steps: int) -> None:
        rule: dict[str, Any] = {"beta": 20.0, "gamma": 0.01, "steps": steps, "epsilon": 0.0, "threshold": 0.5}
        route_triton(query, buffer, owners, owners, owners, **rule)

    none, one = (_milliseconds(functools.partial(route, steps)) for steps in (0, 1))
    rate = keys * width * 4 / none / 1e6
    return f"route speed, {keys} keys", True, f"{none:.3f} ms at M=0 ({rate:.0f} GB/s), {one:.3f} ms at M=1"


def _milliseconds(work: Callable[[], None], repeats: int = 20) -> float:
    for _ in range(3):
        work()
    event: Any = torch.cuda.Event
    start, stop = event(enable_timing=True), event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        work()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / repeats


def main() -> int:
    """Make the checks at small sizes on the GPU; return 1 when one fails."""
    reports = check("cuda", SANITIZED)
    for name, passed, detail in reports:
        print(f"{'PASS' if passed else 'FAIL'} {name}: {detail}")
    return int(not all(passed for _, passed, _ in reports))


if __name__ == "__main__":
    sys.exit(main())
