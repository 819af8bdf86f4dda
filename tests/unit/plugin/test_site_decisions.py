"""What the edit site reports, and how it notices a step that never reached it."""

import json
from typing import Any

import pytest
import torch

from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import Internal
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, replace_all

NAME = "tenants/default/codebooks/a"


def make_site(*, dtype: torch.dtype = torch.float32) -> EditSite:
    codebooks = make_codebooks(dtype=dtype)
    keys = torch.eye(D_IN)[:1]
    replace_all(
        codebooks,
        NAME,
        5,
        make_entry("e1", keys=keys, span=4, mode=ValueMode.ANSWER),
        make_entry("e2", keys=torch.eye(D_IN)[1:2]),
    )
    return EditSite(codebooks, num_slots=2, positions=torch.arange(16))


def rows(count: int = 3, *, codebook: str = NAME) -> list[BatchRow]:
    return [BatchRow("r", RequestTag(codebook, 1.0), 0, count, 0, 3)]


def inputs(axis: int = 0, count: int = 3) -> torch.Tensor:
    return torch.eye(D_IN)[[axis] * count] * 2.0


def taken(site: EditSite) -> dict[str, dict[str, Any]]:
    return site.take_decisions().reports()


def test_a_decision_is_reported_once_in_plain_json_types() -> None:
    site = make_site()
    site.begin_step(rows())
    site.run(inputs(), torch.zeros(3, D_OUT))
    decided = taken(site)
    assert json.loads(json.dumps(decided)) == {
        "r": {
            "codebook": NAME,
            "revision": 5,
            "edit_id": "e1",
            "score": pytest.approx(1.0),
            "runner_up": "e2",
            "runner_up_score": pytest.approx(0.0),
            "threshold": 0.9,
        }
    }
    assert taken(site) == {}


def test_no_match_is_reported_with_its_score_and_writes_nothing() -> None:
    site, outputs = make_site(), torch.full((3, D_OUT), -0.0)
    site.begin_step(rows())
    site.run(inputs(axis=2), outputs)
    decision = taken(site)["r"]
    assert decision["edit_id"] is None
    assert decision["score"] == 0.0
    assert torch.signbit(outputs).all()


def test_an_empty_codebook_has_neither_score_nor_runner_up() -> None:
    site = make_site()
    replace_all(site.codebooks, NAME, 6)
    site.begin_step(rows())
    site.run(inputs(), torch.zeros(3, D_OUT))
    decision = taken(site)["r"]
    assert decision["score"] is decision["runner_up"] is decision["runner_up_score"] is None


def test_a_model_that_computes_nan_matches_nothing_and_reports_valid_json() -> None:
    site, outputs = make_site(), torch.zeros(3, D_OUT)
    site.begin_step(rows())
    site.run(inputs() * float("nan"), outputs)
    decided = taken(site)
    json.dumps(decided, allow_nan=False)
    assert decided["r"]["edit_id"] is None
    assert torch.equal(outputs, torch.zeros(3, D_OUT))


def test_a_planned_step_that_never_ran_is_an_internal_error() -> None:
    site = make_site()
    site.begin_step(rows())
    with pytest.raises(Internal):
        site.take_decisions()
    with pytest.raises(Internal):
        site.begin_step([])


def test_a_dummy_run_after_clear_touches_nothing() -> None:
    site, outputs = make_site(), torch.zeros(16, D_OUT)
    site.begin_step(rows())
    site.run(inputs(), outputs[:3])
    outputs.zero_()
    site.begin_step([BatchRow("r", RequestTag(NAME, 1.0), 0, 1, 3, 3)])
    site.clear()
    site.run(torch.ones(16, D_IN), outputs)
    assert torch.equal(outputs, torch.zeros(16, D_OUT))
    site.begin_step([])


def test_a_request_whose_codebook_is_gone_runs_clean_and_says_so() -> None:
    """The API server has found the codebook; without a report it could not tell this from an answer that was lost."""
    site, outputs, gone = make_site(), torch.zeros(3, D_OUT), "tenants/default/codebooks/gone"
    site.begin_step(rows(count=2, codebook=gone))
    site.run(inputs(count=2), outputs[:2])
    report = taken(site)["r"]
    assert report.pop("codebook") == gone
    assert set(report.values()) == {None}
    assert report.keys() == {"revision", "edit_id", "score", "runner_up", "runner_up_score", "threshold"}
    replace_all(site.codebooks, gone, 1, make_entry("late", keys=torch.eye(D_IN)[:1]))
    site.begin_step([BatchRow("r", RequestTag(gone, 1.0), 0, 1, 2, 3)])
    site.run(inputs(count=1), outputs[2:])
    assert taken(site) == {}
    assert not outputs.any()


def test_values_keep_the_models_dtype() -> None:
    site = make_site(dtype=torch.bfloat16)
    outputs = torch.ones(3, D_OUT, dtype=torch.bfloat16)
    site.begin_step(rows())
    site.run(inputs().bfloat16(), outputs)
    value = site.codebooks.store.values[0]
    assert torch.equal(outputs[2], torch.ones(D_OUT, dtype=torch.bfloat16) + value)
    assert torch.equal(outputs[:2], torch.ones(2, D_OUT, dtype=torch.bfloat16))


def test_a_window_that_begins_in_cached_blocks_stops_the_step() -> None:
    site = make_site()
    with pytest.raises(Internal):
        site.begin_step([BatchRow("r", RequestTag(NAME, 1.0), 0, 1, 2, 3)])


def test_decisions_are_taken_before_they_are_read() -> None:
    """With async scheduling they are read on another thread, when the request may have ended already."""
    site = make_site()
    assert not site.take_decisions()
    site.begin_step(rows())
    site.run(inputs(), torch.zeros(3, D_OUT))
    fresh = site.take_decisions()
    site.requests.finish("r")
    replace_all(site.codebooks, NAME, 6)
    site.begin_step([BatchRow("s", RequestTag(NAME, 1.0), 0, 3, 0, 3)])
    site.run(inputs(axis=2), torch.zeros(3, D_OUT))
    assert fresh
    assert fresh.reports()["r"]["edit_id"] == "e1"
    assert fresh.reports()["r"]["revision"] == 5
    assert taken(site)["s"]["revision"] == 6


def test_a_step_must_run_only_where_it_pools_or_routes() -> None:
    """Other steps may be replayed from a graph, in which no host code runs."""
    site, outputs = make_site(), torch.zeros(3, D_OUT)
    seen = []
    for first, count in ((0, 2), (2, 1), (3, 1), (4, 1)):
        site.begin_step([BatchRow("r", RequestTag(NAME, 0.5), 0, count, first, 3)])
        seen.append(site.must_run())
        if seen[-1]:
            site.run(inputs(count=count), outputs[:count])
        site.take_decisions()
    assert seen == [True, True, False, False]
    site.requests.preempt("r")
    site.begin_step([BatchRow("r", RequestTag(NAME, 0.5), 0, 1, 2, 3)])
    assert not site.must_run()


def test_what_was_routed_is_counted() -> None:
    site = make_site()
    both = [BatchRow(name, RequestTag(NAME, 1.0), 3 * index, 3, 0, 3) for index, name in enumerate("rs")]
    site.begin_step(both)
    site.run(torch.cat([inputs(), inputs(axis=1)]), torch.zeros(6, D_OUT))
    assert {name: decision["edit_id"] for name, decision in taken(site).items()} == {"r": "e1", "s": "e2"}
    assert (site.routed, site.op_calls) == (2, 1)
    assert site.routing_seconds > 0
