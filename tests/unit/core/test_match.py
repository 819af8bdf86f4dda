"""Match: by entry, strict threshold, ties by sequence, rows independent."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.match import Decision, KeyTable, route
from horen_vllm.core.presets import MethodParameters, preset_parameters


def parameters(threshold: float = 0.5, *, gamma: float = 0.0, steps: int = 0) -> MethodParameters:
    return MethodParameters(preset="cosine", threshold=threshold, gamma=gamma, steps=steps)


def table(keys: torch.Tensor, owners: list[int], sequences: list[int]) -> KeyTable:
    return KeyTable(keys, torch.tensor(owners, dtype=torch.int64), torch.tensor(sequences, dtype=torch.int64))


def test_empty_codebook_matches_nothing() -> None:
    decisions = route(torch.eye(4)[:2], table(torch.zeros(0, 4), [], []), parameters(-1.0))
    assert decisions == [Decision(None, float("-inf"), None, None, float("-inf"))] * 2


def test_runner_up_is_another_entry_not_another_key() -> None:
    keys = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.3, 1.0]]), dim=-1)
    [decision] = route(torch.tensor([[1.0, 0.0]]), table(keys, [0, 0, 1], [5, 6]), parameters())
    assert (decision.entry, decision.runner_up) == (0, 1)
    assert abs(decision.runner_up_score - float(keys[2, 0])) < 1e-6


def test_single_entry_has_no_runner_up() -> None:
    [decision] = route(torch.eye(3)[:1], table(torch.eye(3)[:2], [0, 0], [9]), parameters())
    assert (decision.entry, decision.runner_up, decision.runner_up_score) == (0, None, float("-inf"))


def test_equal_scores_go_to_the_higher_sequence_wherever_it_stands() -> None:
    keys = torch.eye(3)[[0, 0, 0]]
    for sequences, winner in (([3, 9, 4], 1), ([9, 3, 4], 0), ([1, 2, 3], 2)):
        [decision] = route(torch.eye(3)[:1], table(keys, [0, 1, 2], sequences), parameters())
        assert decision.entry == winner


def test_a_score_equal_to_the_threshold_does_not_match() -> None:
    [decision] = route(torch.eye(2)[:1], table(torch.eye(2), [0, 1], [1, 2]), parameters(1.0))
    assert decision.entry is None
    assert decision.best == 0


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    entries=st.integers(1, 12),
    keys_each=st.integers(1, 3),
    batch=st.integers(1, 9),
    step=st.sampled_from([(0.0, 0), (0.1, 1), (0.3, 3)]),
)
def test_agrees_with_the_definition_row_by_row(
    seed: int, entries: int, keys_each: int, batch: int, step: tuple[float, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = F.normalize(torch.randn(entries * keys_each, 16, generator=generator), dim=-1)
    queries = F.normalize(torch.randn(batch, 16, generator=generator), dim=-1)
    owners = torch.randint(entries, (entries * keys_each,), generator=generator).tolist()
    book = table(keys, owners, list(range(10, 10 + entries)))
    method = parameters(0.2, gamma=step[0], steps=step[1])
    together = route(queries, book, method)
    for row, decision in zip(queries, together, strict=True):
        [alone] = route(row[None], book, method)
        assert alone.entry == decision.entry
        assert abs(alone.score - decision.score) < 1e-5
        assert _by_definition(row.double(), keys.double(), owners, method) == decision.entry


def _by_definition(row: torch.Tensor, keys: torch.Tensor, owners: list[int], method: MethodParameters) -> int | None:
    for _ in range(method.steps):
        weights = torch.exp(method.beta * keys @ row)
        pull = (weights / weights.sum()) @ keys
        row = (1 - method.gamma) * row + method.gamma * pull / pull.norm()
        row = row / row.norm()
    scores = keys @ row
    best = int(scores.argmax())
    return owners[best] if scores[best] > method.threshold else None


def test_published_settings_of_the_paper() -> None:
    llama = preset_parameters("horen-paper", "meta-llama/Llama-3.1-8B-Instruct")
    assert (llama.threshold, llama.window_ratio, llama.gamma, llama.steps) == (0.85, 0.6, 0.01, 1)
    older = preset_parameters("horen-paper", "meta-llama/Meta-Llama-3-8B-Instruct")
    assert (older.threshold, older.window_ratio) == (0.80, 0.5)
    assert preset_parameters("horen-reference", "x/DeepSeek-R1-Distill-Qwen-1.5B").threshold == 0.80
