"""The memory benchmark: its sizes against hand values, and the paper's accounting against what the paper prints."""

import pytest
import torch

from bench.memory import cases, fixed_costs, in_context
from bench.memory_accounts import (
    LLAMA_8B,
    PAPER_PRINTS,
    ModelShape,
    demo_shape,
    kv_tokens,
    paper_entry,
    paper_parameters,
)
from bench.memory_pools import Case, described, pool_bytes
from horen_vllm.plugin.settings import EngineSettings

SMALL = ModelShape("small", layers=2, d_in=48, d_out=16, kv_heads=2, head_dim=8, dtype=torch.bfloat16)
TABLES = 8 + 2 * 8 + 4 * 8
"""Sequence number; key row and owner; first value row, span, chunk and rank: int64 each."""


def test_the_papers_rule_gives_what_the_paper_prints() -> None:
    assert paper_parameters(1000, 4096) == 4_096_000
    assert paper_parameters(1000, 4096, rank=4) == 32_768_000
    for name, rank in (("value", 0), ("lora", 4)):
        printed = PAPER_PRINTS[name]["parameters"]
        assert paper_parameters(1000, LLAMA_8B.d_out, rank) == pytest.approx(printed, rel=5e-3)
    assert paper_entry(LLAMA_8B) == {"counted": 2 * 4096, "with_its_key": 2 * (4096 + 14336)}


def test_a_token_of_an_8b_model_takes_128_kib_of_cache() -> None:
    assert LLAMA_8B.kv_bytes_a_token == 2 * 32 * 8 * 128 * 2 == 131_072
    assert kv_tokens(LLAMA_8B, 2**20) == 8


def test_the_budgets_of_an_8b_model_in_tokens() -> None:
    fixed = fixed_costs(LLAMA_8B, EngineSettings(site="s", key_budget_mib=256, value_budget_mib=64), 256)
    assert (fixed["kv_tokens_a_mib"], fixed["kv_tokens_of_the_default_budget"]) == (8.0, 2560)
    assert fixed["sums_of_running_requests_bytes"] == 256 * 5 * 14336 * 4


@pytest.mark.parametrize(
    ("rank", "mode", "keys", "vectors"),
    [
        pytest.param(0, "sequence", 48 * 4, 4, id="raw-sequence"),
        pytest.param(0, "answer", 48 * 4, 1, id="raw-answer"),
        pytest.param(8, "last", 8 * 4, 1, id="whitened-last"),
        pytest.param(8, "lora", 8 * 4, 8, id="whitened-lora"),
    ],
)
def test_an_entry_takes_its_key_its_vectors_and_its_tables(rank: int, mode: str, keys: int, vectors: int) -> None:
    loaded = pool_bytes(Case(SMALL, rank, 0, mode, target_tokens=3), 10)
    assert (loaded.keys, loaded.values) == (10 * keys, 10 * vectors * 16 * 2)
    # One row more says what no entry writes.
    assert loaded.tables == 10 * TABLES + 4 * 8
    assert loaded.space == (4 * (rank + 1) * 48 if rank else 0)


def test_words_widen_a_key_and_not_its_space() -> None:
    loaded = pool_bytes(Case(SMALL, 8, 24, "answer", target_tokens=3), 5)
    assert loaded.keys == 5 * 4 * (8 + 24)
    assert loaded.space == 4 * 9 * 48


def test_how_many_entries_a_budget_holds() -> None:
    row = described(Case(SMALL, 0, 0, "sequence", target_tokens=3), 4)
    defaults = EngineSettings(site="s", key_budget_mib=1, value_budget_mib=1)
    found = in_context(SMALL, row, defaults)
    assert found["entries_in_the_default_budgets"] == min(2**20 // (48 * 4), 2**20 // (4 * 16 * 2))


def test_keys_are_never_wider_than_the_layer() -> None:
    assert {case.rank for case in cases(demo_shape(), 5)} == {0, 256, 512}
    assert {case.width for case in cases(LLAMA_8B, 5)} == {14336, 256, 512, 1024, 2048}
