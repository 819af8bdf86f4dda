"""Every engine configuration that the plugin accepts, against the oracle; ``make matrix``."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import mixed
from tests.e2e.engines import apply_book, engine, needs_compiler
from tests.e2e.oracle import Oracle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "eager-no-cache": {"enforce_eager": True, "enable_prefix_caching": False, "max_num_batched_tokens": 64},
    "eager-odd-chunks": {"enforce_eager": True, "enable_prefix_caching": True, "max_num_batched_tokens": 9},
    "eager-sync-scheduling": {"enforce_eager": True, "async_scheduling": False, "max_num_batched_tokens": 32},
    "compile-no-cache": {"enforce_eager": False, "enable_prefix_caching": False, "max_num_batched_tokens": 64},
    "compile-odd-chunks": {"enforce_eager": False, "enable_prefix_caching": True, "max_num_batched_tokens": 9},
}


@pytest.mark.engine
@pytest.mark.matrix
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_compiler if "compile" in name else ()) for name in CONFIGURATIONS]
)
def test_configuration(name: str, model_folder: str, site: str, tmp_path: Path) -> None:
    oracle = Oracle(model_folder, site)
    texts = mixed.prompts(seed=21)
    by_name = mixed.books(oracle, texts, seed=21)
    requests = mixed.cases(texts, seed=21)
    with engine(model_folder, site, dtype="float32", **CONFIGURATIONS[name]) as llm:
        for book_name, book in by_name.items():
            apply_book(llm, book_name, book, tmp_path)
        served = mixed.serve(llm, requests)
    mixed.compare(oracle, served, requests, by_name).check()


@pytest.mark.engine
@pytest.mark.matrix
def test_preemption_inside_long_spans(model_folder: str, site: str, tmp_path: Path) -> None:
    """With few KV blocks, requests lose theirs in the middle of a value's span and are computed again."""
    oracle = Oracle(model_folder, site)
    texts = [text for text in mixed.prompts(seed=22) if 17 <= len(text) <= 103]
    by_name = mixed.books(oracle, texts, seed=22, longest_span=40)
    requests = [mixed.Case(case.prompt, case.codebook, 48) for case in mixed.cases(texts, seed=22)]
    options: dict[str, Any] = {
        "enforce_eager": True,
        "max_num_batched_tokens": 64,
        "max_model_len": 192,
        "num_gpu_blocks_override": 10,
    }
    with engine(model_folder, site, dtype="float32", disable_log_stats=False, **options) as llm:
        for book_name, book in by_name.items():
            apply_book(llm, book_name, book, tmp_path)
        served = mixed.serve(llm, requests, ignore_eos=True)
        preemptions = sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")
    assert preemptions >= 5
    mixed.compare(oracle, served, requests, by_name, ignore_eos=True).check()
