"""Requests of many codebooks in one step: each is decided as alone, and routing spaces are routed in one call."""

from collections.abc import Sequence

import pytest
import torch

from horen_vllm.core.match import Routed
from horen_vllm.kernels import dispatch
from horen_vllm.kernels.groups import RouteGroup
from tests.unit.plugin.mixed_books import KINDS, SPACES, ask, inputs_of, make_site

REQUESTS = 5 * len(KINDS)


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return a list that grows by each call's groups' queries."""
    calls: list[list[int]] = []
    original = dispatch.route_mixed

    def counted(queries: torch.Tensor, keys: torch.Tensor, groups: Sequence[RouteGroup]) -> Routed:
        assert len(queries) == sum(group.queries for group in groups)
        calls.append([group.queries for group in groups])
        return original(queries, keys, groups)

    monkeypatch.setattr(dispatch, "route_mixed", counted)
    return calls


@pytest.mark.parametrize("explain", [0, 3])
def test_each_request_is_decided_as_alone(explain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(REQUESTS)
    alone = [ask(make_site(1), [number], inputs, explain) for number in range(REQUESTS)]
    calls = calls_of(monkeypatch)
    order = torch.randperm(REQUESTS, generator=torch.Generator().manual_seed(2)).tolist()
    reports, outputs = ask(make_site(REQUESTS), order, inputs, explain)
    assert len(calls) == SPACES
    for place, number in enumerate(order):
        expected, written = alone[number]
        assert reports[str(number)] == expected[str(number)]
        assert torch.equal(outputs[place].view(torch.int32), written[0].view(torch.int32))
    fired = {kind: {report["edit_id"] for report in reports.values() if report["codebook"] == kind} for kind in KINDS}
    assert all(len(fired[kind] - {None}) > 1 for kind in KINDS[:-2])
    assert fired["empty"] == fired["gone"] == {None}


def test_a_call_has_no_more_queries_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(8 * 60)
    routed = [8 * turn + kind for turn in range(60) for kind in (0, 1, 6)]
    expected, _ = ask(make_site(len(routed)), routed, inputs)
    calls = calls_of(monkeypatch)
    monkeypatch.setattr("horen_vllm.plugin.routing._MOST_QUERIES", 7)
    reports, _ = ask(make_site(len(routed)), routed, inputs)
    assert reports == expected
    assert {sum(call) for call in calls[:-1]} == {7}
    assert sum(map(sum, calls)) > len(routed)


def test_a_step_of_one_kind_of_codebook_needs_no_other() -> None:
    inputs = inputs_of(2 * len(KINDS))
    for kind in range(len(KINDS)):
        both = [kind, kind + len(KINDS)]
        together, _ = ask(make_site(2), both, inputs)
        assert together == {str(number): ask(make_site(1), [number], inputs)[0][str(number)] for number in both}
