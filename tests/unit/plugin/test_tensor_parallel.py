"""Two ranks that each hold half of the site's input decide like one that holds it all."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.ranks import Ranks
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from horen_vllm.plugin.verdicts import Verdict
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_entry, make_store, publish, update_of
from tests.unit.summing import SummingGroup, make_groups, on_all

RANKS, REQUESTS, PROMPT, ENTRIES = 2, 12, 4, 9
NAME = "tenants/default/codebooks/a"


def rule(steps: int) -> MethodParameters:
    return MethodParameters(preset="cosine", threshold=0.95, gamma=0.2, steps=steps, beta=6.0)


def make_entries() -> list[Numbered]:
    return [
        (number, make_entry(f"e{number}", seed=number, num_keys=2, span=2, mode=ValueMode.ANSWER, rank=number % 2))
        for number in range(ENTRIES)
    ]


def make_site(entries: list[Numbered], method: MethodParameters, group: SummingGroup | None) -> EditSite:
    rank, ranks = (group.rank_in_group, group.world_size) if group else (0, 1)
    codebooks = PagedCodebooks(make_store(d_in=D_IN // ranks, shard=(rank, ranks)))
    publish(codebooks, update_of(NAME, 1, entries, rule=method))
    positions = torch.arange(PROMPT).repeat(REQUESTS)
    return EditSite(codebooks, num_slots=REQUESTS, positions=positions, ranks=Ranks(group) if group else None)


def make_inputs() -> torch.Tensor:
    """Return site inputs near the entries' keys, some nearer than others."""
    generator = torch.Generator().manual_seed(5)
    keys = torch.cat([entry.keys for _, entry in make_entries()])[:REQUESTS]
    noise = torch.randn(REQUESTS, D_IN, generator=generator) * torch.linspace(0.1, 0.6, REQUESTS)[:, None]
    return (F.normalize(keys + noise, dim=-1) * 3).repeat_interleave(PROMPT, dim=0)


def step(site: EditSite, inputs: torch.Tensor, explain: int = 2) -> tuple[dict[str, Any], torch.Tensor]:
    """Route all requests in one step and return their reports and the site's outputs."""
    tag = RequestTag(NAME, 0.5, explain=explain)
    site.begin_step([BatchRow(str(index), tag, index * PROMPT, PROMPT, 0, PROMPT) for index in range(REQUESTS)])
    outputs = torch.ones(REQUESTS * PROMPT, D_OUT)
    site.run(inputs, outputs)
    return site.take_decisions().reports(), outputs


def halves(inputs: torch.Tensor) -> list[torch.Tensor]:
    return [half.contiguous() for half in inputs.chunk(RANKS, dim=1)]


def on_ranks(
    entries: list[Numbered], method: MethodParameters, inputs: torch.Tensor
) -> tuple[list[SummingGroup], list[tuple[dict[str, Any], torch.Tensor]]]:
    groups = make_groups(RANKS)
    sites = [make_site(entries, method, group) for group in groups]
    return groups, on_all([partial(step, site, half) for site, half in zip(sites, halves(inputs), strict=True)])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_two_halves_decide_like_the_whole(steps: int) -> None:
    entries, method, inputs = make_entries(), rule(steps), make_inputs()
    whole, outputs = step(make_site(entries, method, None), inputs)
    groups, results = on_ranks(entries, method, inputs)
    assert results[0][0] == results[1][0]
    for reports, written in results:
        for name, expected in whole.items():
            found = reports[name]
            assert (found["edit_id"], found["runner_up"]) == (expected["edit_id"], expected["runner_up"])
            assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert [row["edit_id"] for row in found["nearest"]] == [row["edit_id"] for row in expected["nearest"]]
        torch.testing.assert_close(written, outputs)
    fired = {report["edit_id"] for report in whole.values()}
    assert len(fired) > 3
    assert None in fired
    assert groups[0].calls == groups[1].calls


def test_refinement_changes_what_is_decided_on_this_data() -> None:
    """Otherwise the test above could not tell a refinement that forgets to sum."""
    scores = [
        [report["score"] for report in step(make_site(make_entries(), rule(steps), None), make_inputs())[0].values()]
        for steps in (0, 1, 3)
    ]
    assert all(abs(first - last) > 1e-3 for first, last in zip(scores[0], scores[1], strict=True))
    assert all(abs(first - last) > 1e-3 for first, last in zip(scores[1], scores[2], strict=True))


def test_ranks_talk_once_a_step_however_many_requests_are_routed() -> None:
    groups = make_groups(RANKS)
    sites = [make_site(make_entries(), rule(0), group) for group in groups]
    on_all([partial(step, site, half, 0) for site, half in zip(sites, halves(make_inputs()), strict=True)])
    keys = 2 * ENTRIES
    # Vectors: of a matrix, FlashInfer's all-reduce on a GPU refuses widths that are no multiple of 16 bytes.
    assert groups[0].calls == [
        ("all_reduce", (REQUESTS,)),
        ("all_reduce", (REQUESTS * keys,)),
        ("broadcast", (5, REQUESTS)),
    ]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_codebook_without_entries_matches_nothing_on_any_rank(steps: int) -> None:
    _, results = on_ranks([], rule(steps), make_inputs())
    for reports, outputs in results:
        assert {report["edit_id"] for report in reports.values()} == {None}
        assert torch.equal(outputs, torch.ones_like(outputs))


def test_a_model_that_computes_nan_matches_nothing_on_any_rank() -> None:
    inputs = make_inputs()
    inputs[:, 0] = torch.nan
    _, results = on_ranks(make_entries(), rule(1), inputs)
    for reports, outputs in results:
        assert {(report["edit_id"], report["score"]) for report in reports.values()} == {(None, None)}
        assert torch.equal(outputs, torch.ones_like(outputs))


def test_all_ranks_take_the_first_ones_decision_bit_for_bit() -> None:
    groups = make_groups(RANKS)
    entry = torch.tensor([3, NO_ENTRY, 2**40])
    score, bound = torch.tensor([0.1, -torch.inf, 0.3]), torch.tensor([0.1, 0.2, 1 / 3], dtype=torch.float64)
    own = Verdict(entry, score, torch.tensor([1, 2, NO_ENTRY]), score - 1e-7, bound)
    other = Verdict(entry + 1, score + 1e-7, entry, score, bound / 7)
    agreed = on_all([partial(Ranks(group).agree, mine) for group, mine in zip(groups, (own, other), strict=True)])
    for verdict in agreed:
        for found, expected in zip(verdict.columns(), own.columns(), strict=True):
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype
