"""What measures the kernels on a GPU, by the interpreter: shapes that are tried launch and compute the same."""

import json
from pathlib import Path

import pytest
import torch

from bench import kernel_tuning, routing_clock
from bench.kernel_floors import BF16, BYTES, FP32, Sizes
from bench.kernel_tuning import placed, tunables, tuned
from bench.kernels_gpu import measure
from bench.result_parts import ResultParts
from bench.routing_clock import CpuClock
from bench.smoke_far import far_inject, far_route
from bench.smoke_graphs import injected_alike, pool_error, pool_step
from horen_vllm.kernels import pool, route

TINY = Sizes(copied=4096, product=8, widths=(24,), keys=(3,), rows=8, inputs=40, outputs=24)
WIDTHS = (24, route.WIDEST_SWEEP + 8)


def test_everything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter takes its time: one other shape each, and no round for warming up.
    monkeypatch.setattr(routing_clock, "WARM", 0)
    others = kernel_tuning._other_shapes
    monkeypatch.setattr(kernel_tuning, "_other_shapes", lambda now, **values: others(now, **values)[:1])
    monkeypatch.setattr(kernel_tuning, "sweep_shapes", lambda _block: [{"BLOCK_N": 2, "warps": 4}])
    out = tmp_path / "kernels_gpu.json"
    parts = ResultParts(out, {})
    measure(parts, TINY, WIDTHS[:1], CpuClock(), 1)
    found = json.loads(out.read_text())
    assert found["failed"] == {}
    assert set(found["rates"]) == {BYTES, FP32, BF16}
    assert len(found["floors"]) == 6 + 2
    assert all(row["floor_milliseconds"] > 0.0 for row in found["floors"])
    assert [row["kernel"].partition(" ")[0].strip(",") for row in found["shapes"]] == [
        "sweep", "rank", "rank", "pool", "inject",
    ]  # fmt: skip
    assert all(row["refused"] == [] for row in found["shapes"])
    assert all(row["shapes"][0]["shape"] == row["now"] for row in found["shapes"])


def test_a_shape_is_in_place_for_its_own_run_alone() -> None:
    sweep, pull, *_, pooled, _ = tunables(TINY, WIDTHS)
    assert [sweep.name, pull.name] == ["sweep D=24", f"pull D={WIDTHS[1]}"]
    before = route.sweep_shape(24)
    with placed(sweep, {"BLOCK_N": 3, "warps": 7}):
        assert route.sweep_shape(24) == (before[0], 3, 7)
    assert route.sweep_shape(24) == before
    with placed(pooled, {"BLOCK_T": 16, "BLOCK_D": 64}):
        assert (pool.BLOCK_T, pool.BLOCK_D) == (16, 64)
    assert (pool.BLOCK_T, pool.BLOCK_D) == (32, 128)


def test_a_shape_that_fails_or_is_wrong_is_refused() -> None:
    *_, pooled, _ = tunables(TINY, WIDTHS)
    # Not a power of two, and one whose sums leave out columns.
    wrong = {"BLOCK_T": 32, "BLOCK_D": 24}
    object.__setattr__(pooled, "others", [wrong])
    found = tuned(pooled, CpuClock(), 1)
    assert [shape for shape, _ in found["refused"]] == [wrong]
    assert found["tuned"] == found["now"]


def test_offsets_behind_a_large_buffer_are_checked() -> None:
    torch.manual_seed(0)
    assert far_route(33, 5000)[1]
    assert far_inject(24, 3000)[1]


def test_a_graph_whose_low_rank_rows_are_wrong_is_seen() -> None:
    slots = torch.tensor([0, 1, -1])
    theirs = torch.randn(3, 8).bfloat16()
    assert injected_alike(theirs.clone(), theirs, slots)
    for row in range(3):
        mine = theirs.clone()
        mine[row] += 1.0
        assert not injected_alike(mine, theirs, slots)


def test_a_pool_that_sums_nothing_is_seen() -> None:
    torch.manual_seed(0)
    arguments = pool_step(40, 130, 1)
    assert pool_error(arguments, lambda: pool.pool_triton(*arguments)) < 1e-3
    assert pool_error(pool_step(40, 130, 1), lambda: None) > 1e-3
