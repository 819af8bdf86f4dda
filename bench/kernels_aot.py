"""Compile every kernel ahead of time, without a GPU, and record what it takes of one.

``python -m bench.kernels_aot`` writes ``bench/results/kernels_aot.json``: registers a thread, shared memory and
spilled bytes by kernel, architecture and shape, as NVIDIA's assembler reports them.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from bench.provenance import provenance, write_result
from horen_vllm.kernels import route
from horen_vllm.kernels.groups import BLOCK_N
from horen_vllm.kernels.inject import inject_kernel, inject_warps
from horen_vllm.kernels.pool import BLOCK_D, BLOCK_T, pool_kernel
from horen_vllm.kernels.route_kernels import (
    attractor_kernel,
    merge_kernel,
    pull_kernel,
    rank_kernel,
    score_kernel,
    step_kernel,
)
from horen_vllm.kernels.settle_kernels import settle_kernel, weigh_kernel
from horen_vllm.kernels.sweep_kernels import cut_kernel, matrix_kernel, shortlist_kernel, sweep_kernel

ARCHITECTURES: Final = (80, 90)
WIDTHS: Final = (512, 1024, 2048, 3584, 4864, 14336, 28672)
"""Of keys: one for each shape that `route.sweep_shape` gives from 512 on, and one that no program holds whole."""
SITE_WIDTH: Final = 14336
"""Of the site's input, for `pool`, whose block sizes do not depend on it."""
OUTPUTS: Final = (2880, 4096, 8192)
"""Of the site's output: gpt-oss-20b, Llama-8B, and the widest that is common."""
SETTLED: Final = {"": False, " open": True}
"""By what a kernel's name ends: whether it takes only queries that first scores leave open."""
DTYPES: Final = ("bf16", "fp16", "fp32")

_TYPES: Final = {
    "p_scores": "*fp32", "p_block_max": "*fp32", "p_keys": "*fp32", "p_queries": "*fp32",
    "p_chunk_max": "*fp32", "p_first": "*fp32", "p_cut": "*fp32", "p_chord": "*fp32", "p_pull": "*fp32",
    "p_attractor": "*fp32", "p_refined": "*fp32", "p_best_score": "*fp32", "p_score": "*fp32",
    "p_second_score": "*fp32", "p_weighed": "*fp32",
    "p_open": "*i32", "p_sums": "*fp32", "p_token_slot": "*i32", "p_rules": "*fp32",
}  # fmt: skip
"""Of a parameter, by name; of the others, pointers are int64 and numbers int32, as the launchers pass them."""
_WIDTH_STRIDES: Final = ("key_stride", "input_stride", "sum_stride", "output_stride", "value_stride")


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str]
    warps: int = 4


@dataclass(frozen=True, slots=True)
class Usage:
    """What one compiled kernel takes."""

    kernel: str
    architecture: str
    warps: int
    registers: int
    shared_bytes: int
    spilled_bytes: int


def cases() -> Iterator[Case]:
    """Yield every kernel at the shapes and with the block sizes that its launcher uses."""
    for width in WIDTHS:
        yield from _route_cases(width)
    for dtype in DTYPES:
        constants = {"D": SITE_WIDTH, "BLOCK_T": BLOCK_T, "BLOCK_D": BLOCK_D}
        yield Case(f"pool D={SITE_WIDTH} {dtype}", pool_kernel, constants, {"p_inputs": f"*{dtype}"})
    yield Case("shortlist", shortlist_kernel, {"BLOCK": route.MERGE_BLOCK}, {})
    yield Case("weigh", weigh_kernel, {"BLOCK": route.MERGE_BLOCK}, {})
    yield Case("settle", settle_kernel, {"BLOCK": route.MERGE_BLOCK}, {})
    for name, settled in SETTLED.items():
        constants = {"BLOCK": route.MERGE_BLOCK, "SETTLED": settled}
        yield Case(f"cut{name}", cut_kernel, constants, {})
        yield Case(f"merge{name}", merge_kernel, constants, {})
    for width in OUTPUTS:
        block = triton.next_power_of_2(width)
        for dtype in DTYPES:
            types = {"p_outputs": f"*{dtype}", "p_values": f"*{dtype}"}
            constants = {"H": width, "BLOCK_H": block}
            yield Case(f"inject H={width} {dtype}", inject_kernel, constants, types, inject_warps(block))


def _route_cases(width: int) -> Iterator[Case]:
    score = {"D": width, "BLOCK_N": BLOCK_N, "BLOCK_D": route.SCORE_BLOCK_D}
    pull = {"D": width, "BLOCK_N": BLOCK_N, "BLOCK_D": route.PULL_BLOCK_D, "BLOCK_K": route.MERGE_BLOCK}
    attractor = {"D": width, "BLOCK_C": route.ATTRACTOR_BLOCK_C, "BLOCK_D": route.PULL_BLOCK_D}
    step = {"D": width, "BLOCK_D": route.STEP_BLOCK_D}
    yield Case(f"score D={width}", score_kernel, score, {})
    for name, settled in SETTLED.items():
        if width <= route.WIDEST_SWEEP:
            block_d, block_n, warps = route.sweep_shape(width)
            sweep = {"D": width, "SETTLED": settled, "BLOCK_N": block_n, "BLOCK_D": block_d}
            yield Case(f"sweep{name} D={width}", sweep_kernel, sweep, {}, warps)
        else:
            yield Case(f"pull{name} D={width}", pull_kernel, {**pull, "SETTLED": settled}, {})
        yield Case(f"attractor{name} D={width}", attractor_kernel, {**attractor, "SETTLED": settled}, {})
        yield Case(f"step{name} D={width}", step_kernel, {**step, "SETTLED": settled}, {})
    yield Case(f"rank D={width}", rank_kernel, {**score, "CHOSEN": False}, {})
    yield Case(f"rank again D={width}", rank_kernel, {**score, "CHOSEN": True}, {})
    matrix = {
        "D": width,
        "BLOCK_B": route.MATRIX_BLOCK_B,
        "BLOCK_N": route.MATRIX_BLOCK_N,
        "BLOCK_D": route.MATRIX_BLOCK_D,
        "PART": route.PART,
    }
    yield Case(f"matrix D={width}", matrix_kernel, matrix, {})


def compile_case(case: Case, architecture: int) -> Usage:
    """Compile one kernel for one architecture (80: A100, 90: H100 and H200)."""
    names: list[str] = case.kernel.arg_names
    types = {name: "*i64" if name.startswith("p_") else "i32" for name in names}
    types |= {name: kind for name, kind in (_TYPES | case.types).items() if name in types}
    types |= dict.fromkeys(case.constants, "constexpr")
    # As at run time: torch's allocations and the widths are multiples of 16; counts are not specialised.
    anywhere = {parameter.name for parameter in case.kernel.params if parameter.do_not_specialize_on_alignment}
    even = [
        index
        for index, name in enumerate(names)
        if name not in anywhere and (name.startswith("p_") or name in _WIDTH_STRIDES)
    ]
    aligned = {(index,): [["tt.divisibility", 16]] for index in even}
    source = ASTSource(case.kernel, types, constexprs=case.constants, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": case.warps})
    registers, spilled = assembler_report(compiled.asm["ptx"], architecture)
    return Usage(case.name, f"sm_{architecture}", case.warps, registers, compiled.metadata.shared, spilled)


def assembler_report(ptx: str, architecture: int) -> tuple[int, int]:
    """Return registers a thread and spilled bytes (stores and loads) that ptxas reports for a kernel."""
    suffix = "a" if architecture >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name=sm_{architecture}{suffix}", str(path)]
        done = subprocess.run([*command, "-o", f"{folder}/kernel.cubin"], capture_output=True, text=True, check=True)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spilled = re.findall(r"(\d+) bytes spill", done.stderr)
    assert registers is not None, done.stderr
    assert spilled, done.stderr
    return int(registers[1]), sum(map(int, spilled))


def main(
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/kernels_aot.json"),
) -> None:
    """Compile all kernels for all architectures and write what they take."""
    fields, made = Usage.__slots__, provenance()
    rows = [compile_case(case, architecture) for architecture in ARCHITECTURES for case in cases()]
    write_result(out, {**made, "kernels": [{name: getattr(row, name) for name in fields} for row in rows]})
    for row in rows:
        print(f"{row.architecture} {row.kernel}: {row.registers} registers, {row.spilled_bytes} bytes spilled")


if __name__ == "__main__":
    typer.run(main)
