"""Every kernel compiles for the supported architectures and keeps its numbers in registers."""

import pytest

from bench.kernels_aot import ARCHITECTURES, WIDTHS, Case, assembler_report, cases, compile_case
from horen_vllm.kernels import inject, pool, route_kernels, settle_kernels, sweep_kernels
from horen_vllm.kernels.route import WIDEST_SWEEP, sweep_shape

CASES = list(cases())


def test_no_kernel_is_left_out() -> None:
    modules = (inject, pool, route_kernels, settle_kernels, sweep_kernels)
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert kernels == {case.kernel.__name__ for case in CASES}


def test_every_shape_of_the_sweep_is_compiled() -> None:
    shapes = {sweep_shape(width) for width in range(512, WIDEST_SWEEP + 1)}
    assert {sweep_shape(width) for width in WIDTHS if width <= WIDEST_SWEEP} == shapes
    assert max(WIDTHS) > WIDEST_SWEEP


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiles_without_spilling(case: Case, architecture: int) -> None:
    usage = compile_case(case, architecture)
    assert usage.spilled_bytes == 0
    assert 0 < usage.registers <= 255
    assert usage.shared_bytes <= 48 * 1024


def test_the_report_sees_a_spill() -> None:
    case = next(case for case in CASES if case.name == "inject H=8192 fp32")
    crowded = Case(case.name, case.kernel, {"H": 8192, "BLOCK_H": 8192}, case.types, warps=1)
    assert compile_case(crowded, 90).spilled_bytes > 0
    with pytest.raises(AssertionError):
        assembler_report(".version 8.0\n.target sm_90a\n.address_size 64\n", 90)
