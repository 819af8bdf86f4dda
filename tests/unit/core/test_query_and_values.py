"""Query window, value positions and parameters at their edges."""

from typing import Any

import pytest
import torch

from horen_vllm.core.presets import MethodParameters, SpanMode, ValueMode, preset_parameters
from horen_vllm.core.query import query_window
from horen_vllm.core.routing import unit_queries
from horen_vllm.core.values import value_chunk, value_index, value_rows, value_span
from horen_vllm.errors import InvalidArgument


@pytest.mark.parametrize(
    ("tokens", "ratio", "window"),
    [(1, 0.6, (0, 1)), (2, 0.6, (0, 2)), (5, 0.6, (2, 5)), (10, 0.6, (4, 10)), (10, 1.0, (0, 10)), (3, 0.01, (2, 3))],
)
def test_window_is_the_last_ceil_of_the_share(tokens: int, ratio: float, window: tuple[int, int]) -> None:
    assert query_window(tokens, ratio) == window


def test_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no query window"):
        query_window(0, 0.6)


def test_sums_give_the_direction_of_the_mean() -> None:
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    mean = rows.float().mean(dim=0)
    torch.testing.assert_close(mean / mean.norm(), unit_queries(rows.float().sum(0)[None], torch.tensor([7]))[0])


@pytest.mark.parametrize(
    ("chunk", "span", "rows"),
    [(1, 3, [0, 1, 2, -1, -1]), (3, 3, [0, 0, 0, -1, -1]), (1, 1, [0, -1, -1, -1, -1]), (2, 5, [0, 0, 1, 1, 2])],
)
def test_positions_of_a_chunk_share_a_vector_and_none_lies_outside_the_span(
    chunk: int, span: int, rows: list[int]
) -> None:
    assert value_index(torch.arange(-4, 5), chunk, span).tolist() == [-1] * 4 + rows
    assert value_rows(span, chunk) == max(rows) + 1


@pytest.mark.parametrize(
    ("span", "most", "chunk", "rows"),
    [(1, 256, 1, 1), (256, 256, 1, 256), (257, 256, 2, 129), (10, 4, 3, 4), (9, 4, 3, 3), (7, 1, 7, 1)],
)
def test_a_span_over_the_most_vectors_shares_them_as_little_as_it_can(
    span: int, most: int, chunk: int, rows: int
) -> None:
    parameters = MethodParameters(preset="cosine", threshold=0.9, max_value_rows=most)
    assert value_chunk(span, parameters) == chunk
    assert value_rows(span, chunk) == rows <= most
    assert chunk == 1 or value_rows(span, chunk - 1) > most


@pytest.mark.parametrize("change", [{"value_mode": ValueMode.ANSWER}, {"value_mode": ValueMode.LAST}, {"rank": 4}])
def test_a_single_vector_and_a_lora_value_are_the_same_over_the_whole_span(change: dict[str, Any]) -> None:
    parameters = MethodParameters(preset="cosine", threshold=0.9, max_value_rows=2, **change)
    assert value_chunk(9, parameters) == 9


def test_span_counts_the_end_token_only_when_it_is_trained() -> None:
    with_end = MethodParameters(preset="cosine", threshold=0.9)
    assert value_span(4, with_end) == 5
    paper = preset_parameters("horen-paper", "any", 0.9)
    assert value_span(4, paper) == 4
    assert value_span(4, preset_parameters("horen-reference", "any", 0.9)) == 1


@pytest.mark.parametrize("preset", ["horen-paper", "cosine"])
def test_parameters_survive_storage(preset: str) -> None:
    original = preset_parameters(preset, "any", 0.7)
    assert MethodParameters.from_dict(original.to_dict()) == original
    assert isinstance(MethodParameters.from_dict(original.to_dict()).span, SpanMode)


def test_what_was_stored_before_spans_means_the_whole_prompt() -> None:
    stored = preset_parameters("cosine", "any", 0.7).to_dict()
    assert stored.pop("span") == "content"
    assert MethodParameters.from_dict(stored).span is SpanMode.PROMPT


def test_the_papers_presets_keep_the_whole_prompt() -> None:
    modes = {preset: preset_parameters(preset, "any", 0.7).span for preset in ("horen-paper", "horen-reference")}
    assert set(modes.values()) == {SpanMode.PROMPT}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"threshold": 1.5}, "invalid_parameter"),
        ({"gamma": 1.0}, "invalid_parameter"),
        ({"gama": 0.1}, "invalid_parameter"),
        ({"value_mode": "everywhere"}, "invalid_parameter"),
        ({"value_mode": None}, "invalid_parameter"),
        ({"span": "everything"}, "invalid_parameter"),
        ({"value_mode": ["last"]}, "invalid_parameter"),
        ({"threshold": "high"}, "invalid_parameter"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, object], code: str) -> None:
    stored = preset_parameters("cosine", "any", 0.7).to_dict()
    with pytest.raises(InvalidArgument) as caught:
        MethodParameters.from_dict({**stored, **change})
    assert caught.value.code == code


@pytest.mark.parametrize("field", ["preset", "threshold", "value_mode"])
def test_missing_parameters_are_refused_by_name(field: str) -> None:
    stored = preset_parameters("cosine", "any", 0.7).to_dict()
    del stored[field]
    with pytest.raises(InvalidArgument, match=f"'{field}' is missing") as caught:
        MethodParameters.from_dict(stored)
    assert caught.value.code == "invalid_parameter"


def test_presets_refuse_what_nobody_published() -> None:
    with pytest.raises(InvalidArgument) as caught:
        preset_parameters("horen-paper", "my-own-model")
    assert caught.value.code == "threshold_required"
    with pytest.raises(InvalidArgument) as caught:
        preset_parameters("nonsense", "my-own-model", 0.9)
    assert caught.value.code == "unknown_preset"
