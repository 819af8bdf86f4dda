"""Method over ranks that each hold a slice of the width: the same numbers as on one rank that holds it all."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.match import KeyTable, Routed, decisions, route, route_tensors
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import refine, unit
from horen_vllm.core.routing import unit_queries
from tests.unit.summing import make_groups, on_all

WIDTH = 12


def random_unit(seed: int, rows: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def on_shards(ranks: int, call: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Run `call` on every rank with its slices of the tensors and its way to sum."""
    slices = [torch.chunk(tensor, ranks, dim=1) for tensor in tensors]
    groups = make_groups(ranks)
    return on_all([partial(call, *(part[i] for part in slices), groups[i].all_reduce) for i in range(ranks)])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.integers(1, 20),
    queries=st.integers(1, 6),
    steps=st.integers(0, 4),
    ranks=st.sampled_from([2, 3]),
    epsilon=st.sampled_from([0.0, 0.5]),
)
def test_refinement_sums_over_the_ranks(
    seed: int, keys: int, queries: int, steps: int, ranks: int, epsilon: float
) -> None:
    keys_ND, queries_BD = random_unit(seed, keys), random_unit(seed + 1, queries)
    refined = partial(refine, beta=8.0, gamma=0.3, steps=steps, epsilon=epsilon)
    whole = refined(queries_BD, keys_ND)
    parts = on_shards(ranks, lambda q, k, reduce: refined(q, k, reduce=reduce), queries_BD, keys_ND)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 4])
def test_queries_have_length_one_over_all_ranks(ranks: int) -> None:
    sums = random_unit(3, 5) * 7.0
    counts = torch.full((5,), 3)
    parts = on_shards(ranks, lambda part, reduce: unit_queries(part, counts, reduce=reduce), sums)
    torch.testing.assert_close(torch.cat(parts, dim=1), unit_queries(sums, counts))


def test_a_row_of_zeros_stays_finite_on_every_rank() -> None:
    parts = on_shards(2, unit, torch.zeros(1, WIDTH))
    assert torch.equal(torch.cat(parts, dim=1), unit(torch.zeros(1, WIDTH)))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_every_rank_routes_like_the_whole(steps: int) -> None:
    method = MethodParameters(preset="cosine", threshold=0.4, gamma=0.2 if steps else 0.0, steps=steps)
    keys, queries = random_unit(1, 14), random_unit(2, 8)
    owners, sequences = torch.arange(14) % 5, torch.tensor([9, 2, 7, 4, 1])
    expected = route(queries, KeyTable(keys, owners, sequences), method)
    groups = make_groups(2)

    def routed(rank: int) -> Routed:
        table = KeyTable(keys.chunk(2, dim=1)[rank], owners, sequences)
        return route_tensors(queries.chunk(2, dim=1)[rank], table, method, groups[rank].all_reduce)

    for found in on_all([partial(routed, rank) for rank in (0, 1)]):
        for one, other in zip(decisions(found), expected, strict=True):
            assert (one.entry, one.best, one.runner_up) == (other.entry, other.best, other.runner_up)
            assert one.score == pytest.approx(other.score, abs=1e-5)
    assert len({decision.entry for decision in expected}) > 2


def test_an_empty_table_asks_nobody() -> None:
    """Every rank sees the same table, so all of them skip the sums or none does."""
    [group] = make_groups(1)
    table = KeyTable(torch.empty(0, WIDTH), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    method = MethodParameters(preset="cosine", threshold=0.4)
    [decision] = decisions(route_tensors(random_unit(0, 1), table, method, group.all_reduce))
    assert decision.entry is None
    assert group.calls == []
