"""Routing spaces: queries by their formula, independent of the batch, sharded or whole; words; files; parameters."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.presets import MAX_FALSE_FIRE_RATE, MethodParameters, ValueMode, preset_parameters
from horen_vllm.core.routing import RoutingSpace, hashed_grams, joined_queries, unit_queries, word_vector
from horen_vllm.errors import DataLoss, FailedPrecondition, InvalidArgument
from horen_vllm.spaces import SpaceManifest, decode_background, decode_space, encode_background, encode_space
from tests.unit.summing import make_groups, on_all

WIDTH, KEPT, BUCKETS, WEIGHTS = 24, 10, 64, 512
MANIFEST = SpaceManifest(fingerprint="f", site="s", window_ratio=0.6, span="content", prompts=300, source="built-in")
COSINE = preset_parameters("cosine", "tiny", 0.5)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def space_of(seed: int = 0, *, words: int = BUCKETS, share: float = 0.3, order: int = 2) -> RoutingSpace:
    rarity = drawn(seed + 2, WEIGHTS if words else 0).abs()
    return RoutingSpace(drawn(seed, WIDTH), drawn(seed + 1, KEPT, WIDTH), rarity, share, order, words)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), rows=st.integers(0, 9))
def test_queries_are_whitened_means_and_rows_do_not_see_each_other(seed: int, rows: int) -> None:
    space, sums = space_of(seed), 5 * drawn(seed + 3, rows, WIDTH)
    counts = torch.randint(1, 30, (rows,), generator=torch.Generator().manual_seed(seed))
    found = unit_queries(sums, counts, space)
    assert found.shape == (rows, KEPT)
    for row, total, count in zip(found, sums.double(), counts, strict=True):
        plain = space.matrix.double() @ (total / int(count) - space.mean.double())
        torch.testing.assert_close(row.double(), plain / plain.norm(), atol=1e-5, rtol=1e-5)
    for at in range(rows):
        assert torch.equal(unit_queries(sums[at : at + 1], counts[at : at + 1], space)[0], found[at])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unit_queries(sums[order], counts[order], space), found[order])


def test_without_a_space_a_query_is_the_direction_of_the_sum() -> None:
    sums = drawn(0, 3, WIDTH)
    for counts in (torch.ones(3), torch.tensor([2, 9, 4])):
        assert torch.equal(unit_queries(sums, counts), F.normalize(sums, dim=1))


@pytest.mark.parametrize("ranks", [2, 3])
def test_sharded_columns_give_the_whole(ranks: int) -> None:
    space, sums, counts = space_of(), drawn(9, 5, WIDTH), torch.tensor([1, 2, 3, 4, 5])
    size, groups = WIDTH // ranks, make_groups(ranks)

    def part(rank: int) -> torch.Tensor:
        columns = slice(rank * size, (rank + 1) * size)
        own = space.columns(columns.start, columns.stop)
        assert (own.word_share, own.order, own.word_buckets) == (space.word_share, space.order, BUCKETS)
        return unit_queries(sums[:, columns], counts, own, groups[rank].all_reduce)

    for found in on_all([partial(part, rank) for rank in range(ranks)]):
        torch.testing.assert_close(found, unit_queries(sums, counts, space), atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 0.99))
def test_a_joined_score_is_the_weighted_sum_of_both(seed: int, share: float) -> None:
    dense, words = F.normalize(drawn(seed, 4, KEPT), dim=1), F.normalize(drawn(seed + 1, 4, BUCKETS), dim=1)
    joined = joined_queries(dense, words, share)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(4))
    expected = (1 - share) * (dense @ dense.T) + share * (words @ words.T)
    torch.testing.assert_close(joined @ joined.T, expected, atol=1e-6, rtol=0)


def test_a_prompt_without_words_has_the_dense_query_alone() -> None:
    space, dense = space_of(), F.normalize(drawn(3, 1, KEPT), dim=1)
    nothing = word_vector((), space)
    assert torch.equal(nothing, torch.zeros(BUCKETS))
    torch.testing.assert_close(joined_queries(dense, nothing[None], 0.3)[0, :KEPT], dense[0])
    assert (space.width, space.reads_words) == (KEPT + BUCKETS, True)
    assert (space_of(words=0).width, space_of(words=0).reads_words) == (KEPT, False)


def test_word_vectors_are_weights_and_signs_of_distinct_word_runs() -> None:
    space = space_of()
    words = ("who", "leads", "acme", "who", "leads")
    vector = torch.zeros(BUCKETS)
    grams = ("acme", "acme who", "leads", "leads acme", "who", "who leads")
    for gram in grams:
        [number] = hashed_grams([gram], 1)
        sign, weight = 1.0 if number % 2 else -1.0, space.rarity[(number // 2**32) % WEIGHTS]
        vector[(number // 2) % BUCKETS] += sign * weight
    torch.testing.assert_close(word_vector(words, space), F.normalize(vector, dim=0))
    assert torch.equal(word_vector(words, space), word_vector(list(words), space))
    assert not torch.equal(word_vector(words[:3], space), word_vector(words[2::-1], space))
    one = replace(space, order=1)
    assert torch.equal(word_vector(words[:3], one), word_vector(words[2::-1], one))


def test_buckets_signs_and_weights_are_spread_and_never_change() -> None:
    found = [number for count in range(4000) for number in hashed_grams([f"word{count}"], 2)]
    assert 0 <= min(found) <= max(found) < 2**62
    assert abs(sum(number % 2 for number in found) - 2000) < 200
    for shift, most in ((1, BUCKETS), (32, WEIGHTS)):
        counts = Counter((number >> shift) % most for number in found)
        assert len(counts) > 0.99 * most
        assert max(counts.values()) < 4 * 4000 / most
    # Keys in files depend on it.
    assert [number % 2048 for number in hashed_grams(["who", "leads", "東"], 2)] == [576, 697, 186, 1840, 1598]


@pytest.mark.parametrize("words", [0, BUCKETS])
def test_a_space_survives_its_file(words: int) -> None:
    space = space_of(words=words)
    data = encode_space(space, MANIFEST)
    assert data == encode_space(space_of(words=words), MANIFEST)
    read = decode_space(data, "f")
    for name in ("mean", "matrix", "rarity"):
        assert torch.equal(getattr(read, name), getattr(space, name))
    assert (read.word_share, read.order) == (space.word_share, space.order)


def test_a_background_survives_its_file() -> None:
    queries = F.normalize(drawn(1, 7, WIDTH), dim=1)
    assert torch.equal(decode_background(encode_background(queries, MANIFEST), "f"), queries)


def test_a_file_for_another_model_is_refused() -> None:
    for decode, data in (
        (decode_space, encode_space(space_of(), MANIFEST)),
        (decode_background, encode_background(drawn(1, 7, WIDTH), MANIFEST)),
    ):
        with pytest.raises(FailedPrecondition, match="horen calibrate") as caught:
            decode(data, "g")
        assert caught.value.code == "fingerprint_mismatch"


def test_a_file_that_is_something_else_is_unreadable() -> None:
    space, background = encode_space(space_of(), MANIFEST), encode_background(drawn(1, 7, WIDTH), MANIFEST)
    later = encode_space(space_of(), replace(MANIFEST, format_version=2))
    for data in (b"", space[:5], space[:40], space[:-1], space + b"x", b"\xff" * 90, background, later):
        with pytest.raises(DataLoss) as caught:
            decode_space(data, "f")
        assert caught.value.code == "artifact_unreadable"
    with pytest.raises(DataLoss):
        decode_background(space, "f")


@pytest.mark.parametrize(
    "change",
    [
        {"false_fire_rate": 0.01},
        {"false_fire_rate": 0.0, "background": "b"},
        {"false_fire_rate": MAX_FALSE_FIRE_RATE + 0.01, "background": "b"},
        {"false_fire_rate": math.nan, "background": "b"},
        {"anchored_threshold": 1.01},
        {"anchored_threshold": math.nan},
        {"mask_subject": True},
        {"value_mode": ValueMode.REPLACE},
        {"value_mode": ValueMode.REPLACE, "radius": 1.0, "rank": 2},
        {"radius": 0.0},
        {"radius": math.inf},
        {"radius": 1.0, "steps": 1},
        {"radius": 1.0, "space": "a"},
    ],
)
def test_parameters_outside_their_range(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        replace(COSINE, **change)
    assert caught.value.code == "invalid_parameter"


@pytest.mark.parametrize(
    "change",
    [
        {"false_fire_rate": MAX_FALSE_FIRE_RATE, "background": "b"},
        {"anchors": True, "mask_subject": True, "anchored_threshold": -1.0, "space": "a"},
        {"value_mode": ValueMode.REPLACE, "radius": 3.5},
    ],
)
def test_parameters_are_read_as_they_were_written(change: dict[str, Any]) -> None:
    parameters = replace(COSINE, **change)
    assert MethodParameters.from_dict(parameters.to_dict()) == parameters


def test_what_was_stored_before_there_were_spaces_routes_as_it_did() -> None:
    added = ("space", "background", "false_fire_rate", "anchors", "anchored_threshold", "mask_subject", "radius")
    old = {name: value for name, value in COSINE.to_dict().items() if name not in added}
    read = MethodParameters.from_dict(old)
    assert read == COSINE
    assert (read.space, read.anchors, read.radius, read.false_fire_rate) == (None, False, None, None)
