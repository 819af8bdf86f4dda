"""The compiled loops beside their definitions, and beside the engine that loads them."""

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from numba.extending import _Intrinsic

from horen_vllm.kernels import cpu_keys, cpu_rows
from horen_vllm.kernels.cpu_rows import best_two, highest_keys, refine_rows


def test_every_attribute_of_every_module_can_be_asked_for_its_fields() -> None:
    """As vLLM does when a worker starts on a CPU."""
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in ("llvmlite", "numba")]:
        for value in list(vars(module).values()):
            if hasattr(value, "__dict__"):
                assert vars(value).get("kernel") is None


@pytest.mark.parametrize("module", [cpu_keys, cpu_rows])
def test_what_a_kept_loop_calls_stands_in_its_file(module: ModuleType) -> None:
    """numba looks at that file alone when it decides whether what it kept is still good."""
    loops = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
    assert len(loops) >= 3
    for loop in loops:
        called = [vars(module).get(name) for name in loop.py_func.__code__.co_names]
        for value in called:
            if isinstance(value, (Dispatcher, _Intrinsic)):
                assert (value.py_func if isinstance(value, Dispatcher) else value._defn).__module__ == module.__name__


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 60), most=st.integers(1, 20))
def test_the_highest_keys(seed: int, count: int, most: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 12, count).astype(np.float32)
    places = np.empty(min(most, count), np.int64)
    lowest = highest_keys(scores, places)
    assert len(set(places.tolist())) == len(places)
    assert sorted(scores[places].tolist()) == sorted(scores.tolist())[-len(places) :]
    assert lowest == scores[places].min()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 30), entries=st.integers(1, 6))
def test_the_best_two_entries(seed: int, count: int, entries: int) -> None:
    generator = np.random.default_rng(seed)
    owners, sequences = generator.integers(0, entries, 40), generator.permutation(entries)
    places = generator.permutation(40)[:count]
    scores = generator.integers(0, 5, count).astype(np.float32)
    scores[generator.random(count) < 0.2] = np.nan
    by_entry: dict[int, float] = {}
    for score, entry in zip(scores.tolist(), owners[places].tolist(), strict=True):
        if not np.isnan(score):
            by_entry[entry] = max(score, by_entry.get(entry, -np.inf))
    ranked = sorted(((score, sequences[entry], entry) for entry, score in by_entry.items()), reverse=True)
    expected = [(entry, score) for score, _, entry in ranked[:2]] + [(-1, -np.inf)] * 2
    best, score, second, second_score = best_two(scores, places, owners, sequences)
    assert [(best, score), (second, second_score)] == expected[:2]


@pytest.mark.parametrize("width", [1, 7, 64, 1030])
def test_a_damped_step_beside_its_definition(width: int) -> None:
    generator = np.random.default_rng(3)
    queries = generator.standard_normal((4, width), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    sums = 7.0 * generator.standard_normal((3, width), np.float32)
    # The second is at its attractor, so it stops; the third stopped before.
    sums[1] = 5.0 * queries[1]
    moving, refined, chords = np.array([True, True, False]), np.empty_like(queries), np.empty(3, np.float32)
    refine_rows(queries, sums, np.float32(0.3), np.float32(1e-5), moving, refined, chords)
    target = sums[0].astype(np.float64) / np.linalg.norm(sums[0].astype(np.float64))
    step = 0.7 * queries[0] + 0.3 * target
    if np.linalg.norm(target - queries[0]) > 1e-5:
        assert np.allclose(refined[0], step / np.linalg.norm(step), atol=1e-6)
        assert np.isclose(chords[0], np.linalg.norm(refined[0] - queries[0]), atol=1e-6)
        assert moving[0]
    assert not moving[1:].any()
    assert (refined[1:3] == queries[1:3]).all()
    assert (chords[1:] == 0).all()
