"""Block sizes of the kernels, tried on this device: which are faster than those that the launchers use now."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from statistics import median
from types import ModuleType
from typing import Any, Final

import torch
import triton
from torch.nn import functional as F

from bench.intervals import interval
from bench.kernel_floors import Sizes, inject_arguments, inject_name, pool_arguments, pool_name
from bench.kernels_aot import WIDTHS
from bench.routing_clock import Clock, Taken, paired
from horen_vllm.core.match import Routed
from horen_vllm.kernels import inject, pool, route

Shape = Mapping[str, int]
BETTER: Final = 1.02
"""Times that today's shape must take of another's, by the interval's lower bound, for the other to be chosen."""
_NUMBERS_A_THREAD: Final = 200
"""Of a sweep's query, keys and sums; a thread has 255 registers."""
_TOLERANCE: Final = 1e-3
"""Of sums and scores; entries are numbers far apart."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """An operation and the shapes that it may be launched with.

    Attributes
    ----------
    module
        Whose globals the launcher takes a shape from.
    globals_of
        Those globals for a shape.
    run
        The operation; returns what it computed.
    """

    name: str
    now: Shape
    others: Sequence[Shape]
    module: ModuleType
    globals_of: Callable[[Shape], dict[str, object]]
    run: Callable[[], Sequence[torch.Tensor]]


def tunables(sizes: Sizes, widths: Sequence[int] = WIDTHS) -> Iterator[Tunable]:
    """Yield what is tuned: the sweep at every width, the ranking, reading wide keys twice, pool and inject."""
    keys = max(sizes.keys)
    for width in widths:
        run = partial(_routed, keys, width, steps=1)
        if width <= route.WIDEST_SWEEP:
            yield _sweep(width, run)
        else:
            yield _constant(f"pull D={width}", "PULL_BLOCK_D", (64, 128, 256), route, run)
    for width in (min(widths), max(widths)):
        run = partial(_routed, keys, width, steps=0)
        yield _constant(f"rank D={width}", "SCORE_BLOCK_D", (256, 512, 1024, 2048), route, run)
    yield _pool(sizes)
    yield _inject(sizes)


def sweep_shapes(block: int) -> list[Shape]:
    """Return keys at once and warps for which a sweep of `block` columns has room in registers."""
    return [
        {"BLOCK_N": keys, "warps": warps}
        for warps in (4, 8, 16)
        for keys in (1, 2, 4, 8, 16)
        if (2 * keys + 1) * block <= _NUMBERS_A_THREAD * 32 * warps
    ]


def tuned(tunable: Tunable, clock: Clock, rounds: int) -> dict[str, Any]:
    """Return the times of all shapes that compute what today's does, and the one to use.

    That is the fastest if today's takes at least `BETTER` times as long for certain, and else today's.
    """
    expected = [one.clone() for one in tunable.run()]
    refused = dict[int, str]()
    shapes = [tunable.now, *tunable.others]
    for place, shape in enumerate(shapes):
        try:
            with placed(tunable, shape):
                found = tunable.run()
        except Exception as exc:  # noqa: BLE001 - a shape that does not fit the device is no error of the run
            refused[place] = f"{type(exc).__name__}: {exc}"[:300]
            continue
        if not _alike(expected, found):
            refused[place] = "computes something else"
    sides = {str(place): partial(_run, tunable, shape) for place, shape in enumerate(shapes) if place not in refused}
    times = paired(sides, {"": lambda _: torch.empty(0)}, rounds, clock)[""]
    return {"kernel": tunable.name, **chosen(shapes, times), "refused": [[shapes[at], refused[at]] for at in refused]}


def chosen(shapes: Sequence[Shape], times: Mapping[str, Sequence[Taken]]) -> dict[str, Any]:
    """Return shapes with their times, the first one's as those of today, and the one to use."""
    now = [taken.seconds for taken in times["0"]]
    rows = [
        {
            "shape": dict(shapes[int(place)]),
            "milliseconds": 1e3 * median(taken.seconds for taken in found),
            "now_takes_times": interval([mine / taken.seconds for mine, taken in zip(now, found, strict=True)]),
        }
        for place, found in times.items()
    ]
    best: dict[str, Any] = min(rows, key=lambda row: row["milliseconds"])
    better = best["now_takes_times"]["low"] >= BETTER
    return {"now": dict(shapes[0]), "tuned": best["shape"] if better else dict(shapes[0]), "shapes": rows}


@contextlib.contextmanager
def placed(tunable: Tunable, shape: Shape) -> Iterator[None]:
    """Let the launchers use a shape."""
    new = tunable.globals_of(shape)
    before = {name: getattr(tunable.module, name) for name in new}
    try:
        for name, value in new.items():
            setattr(tunable.module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(tunable.module, name, value)


def _run(tunable: Tunable, shape: Shape, _queries: torch.Tensor) -> object:
    with placed(tunable, shape):
        return tunable.run()


def _sweep(width: int, run: Callable[[], Sequence[torch.Tensor]]) -> Tunable:
    block, keys, warps = route.sweep_shape(width)
    now = {"BLOCK_N": keys, "warps": warps}

    def globals_of(shape: Shape) -> dict[str, object]:
        return {"sweep_shape": lambda _width: (block, shape["BLOCK_N"], shape["warps"])}

    others = [shape for shape in sweep_shapes(block) if shape != now]
    return Tunable(f"sweep D={width}", now, others, route, globals_of, run)


def _constant(
    name: str, of: str, values: Sequence[int], module: ModuleType, run: Callable[[], Sequence[torch.Tensor]]
) -> Tunable:
    now = {of: getattr(module, of)}
    return Tunable(name, now, _other_shapes(now, **{of: values}), module, dict, run)


def _pool(sizes: Sizes) -> Tunable:
    arguments = pool_arguments(sizes)

    def run() -> Sequence[torch.Tensor]:
        pool.pool_triton(*arguments)
        return [arguments[1]]

    now = {"BLOCK_T": pool.BLOCK_T, "BLOCK_D": pool.BLOCK_D}
    others = _other_shapes(now, BLOCK_T=(16, 32, 64), BLOCK_D=(64, 128, 256))
    return Tunable(pool_name(sizes), now, others, pool, dict, run)


def _inject(sizes: Sizes) -> Tunable:
    outputs, *table = inject_arguments(sizes)
    before = outputs.clone()

    def run() -> Sequence[torch.Tensor]:
        # Written in place: without this each call would begin with the sums of the one before.
        outputs.copy_(before)
        inject.inject_triton(outputs, *table)
        return [outputs]

    def globals_of(shape: Shape) -> dict[str, object]:
        return {"inject_warps": lambda _block: shape["warps"]}

    now = {"warps": inject.inject_warps(triton.next_power_of_2(sizes.outputs))}
    return Tunable(inject_name(sizes), now, _other_shapes(now, warps=(2, 4, 8, 16)), inject, globals_of, run)


def _other_shapes(now: Shape, **values: Sequence[int]) -> list[Shape]:
    shapes: list[dict[str, int]] = [{}]
    for name, each in values.items():
        shapes = [{**shape, name: value} for shape in shapes for value in each]
    return [shape for shape in shapes if shape != now]


@lru_cache(maxsize=1)
def _book(keys: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and owners; those of one width are held, since all together are too many."""
    return F.normalize(torch.randn(keys, width), dim=-1), torch.arange(keys)


def _routed(keys: int, width: int, *, steps: int) -> Sequence[torch.Tensor]:
    buffer, owners = _book(keys, width)
    rule: dict[str, Any] = {"beta": 20.0, "gamma": 0.01, "steps": steps, "epsilon": 0.0, "threshold": 0.5}
    found = route.route_triton(buffer[:1], buffer, owners, owners, owners, **rule)
    return [getattr(found, field.name) for field in fields(Routed)]


def _alike(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    return all(
        torch.allclose(mine.double(), theirs.double(), rtol=0.0, atol=_TOLERANCE)
        for mine, theirs in zip(expected, found, strict=True)
    )
