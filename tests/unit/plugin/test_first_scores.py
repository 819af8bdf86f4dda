"""Decisions by first scores: who fires is the same, what is told may be the score before refinement."""

from typing import Any

import pytest
import torch

from horen_vllm.core.presets import ValueMode
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, parameters, publish, update_of
from tests.unit.plugin.mixed_books import KINDS, ask, inputs_of, make_site

NAME = "a"
THRESHOLD, FLOOR = 0.8, 0.9
GAMMA = 0.2


def site(*, first_scores: bool, slots: int) -> EditSite:
    """Return a site with three entries on axes; the second has a floor."""
    codebooks = make_codebooks()
    shape: dict[str, Any] = {"span": 1, "mode": ValueMode.LAST}
    kinds: tuple[dict[str, Any], ...] = ({}, {"floor": FLOOR}, {})
    entries = [
        (number + 1, make_entry(f"e{number}", keys=torch.eye(D_IN)[[number]], seed=number, **shape, **more))
        for number, more in enumerate(kinds)
    ]
    publish(codebooks, update_of(NAME, 1, entries, rule=parameters(THRESHOLD, 1.0, GAMMA)))
    return EditSite(
        codebooks, num_slots=slots, positions=torch.zeros(slots, dtype=torch.int64), first_scores=first_scores
    )


def decide(
    asked: EditSite, queries: torch.Tensor, explain: tuple[int, ...] = ()
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Route a request of one token for each query; those numbered `explain` ask for the nearest entries."""
    count = len(queries)
    tags = [RequestTag(NAME, 1.0, explain=3 if number in explain else 0) for number in range(count)]
    asked.begin_step([BatchRow(str(number), tag, number, 1, 0, 1) for number, tag in enumerate(tags)])
    outputs = torch.zeros(count, D_OUT)
    asked.run(queries, outputs)
    reports = asked.take_decisions().reports()
    return [reports[str(number)] for number in range(count)], outputs


def about(axis: int, cosines: list[float]) -> torch.Tensor:
    """Return queries at these cosines of an axis; what is left lies off all entries."""
    rows = torch.zeros(len(cosines), D_IN)
    rows[:, axis] = torch.tensor(cosines)
    rows[:, 5] = (1.0 - rows[:, axis] ** 2).sqrt()
    return rows


COSINES = [0.1, 0.5, 0.7, 0.77, 0.79, 0.81, 0.85, 0.88, 0.9, 0.93, 0.97, 1.0]


@pytest.mark.parametrize("axis", [0, 1])
def test_who_fires_is_the_same_and_certain_scores_are_plain_cosines(axis: int) -> None:
    queries = about(axis, COSINES)
    refined, written = decide(site(first_scores=False, slots=len(COSINES)), queries)
    first, outputs = decide(site(first_scores=True, slots=len(COSINES)), queries)
    assert torch.equal(outputs, written)
    assert written[-1].abs().sum() > 0
    assert written[0].abs().sum() == 0
    plain = 0
    for cosine, one, other in zip(COSINES, first, refined, strict=True):
        assert (one["edit_id"], one["threshold"]) == (other["edit_id"], other["threshold"])
        if one != other:
            assert one["score"] == pytest.approx(cosine, abs=1e-6)
            plain += 1
            # No score that may yet fall below a floor, or rise above the threshold, is told as certain.
            assert not THRESHOLD < one["score"] <= FLOOR
    assert 3 <= plain < len(COSINES)


def test_who_asks_for_the_nearest_has_refined_scores_and_changes_nobody_elses() -> None:
    queries = about(0, [0.1, 0.1, 0.97, 0.97, 0.1])
    refined, _ = decide(site(first_scores=False, slots=5), queries)
    alone, _ = decide(site(first_scores=True, slots=5), queries)
    mixed, _ = decide(site(first_scores=True, slots=5), queries, explain=(1, 2))
    for number in (0, 3, 4):
        assert mixed[number] == alone[number]
        assert mixed[number]["score"] != refined[number]["score"]
    for number in (1, 2):
        assert refined[number].items() <= mixed[number].items()
        assert mixed[number]["nearest"][0]["score"] == pytest.approx(refined[number]["score"], abs=1e-6)


def test_a_step_of_codebooks_of_all_kinds() -> None:
    count = 4 * len(KINDS)
    inputs, order = inputs_of(count), torch.randperm(count, generator=torch.Generator().manual_seed(5)).tolist()
    expected, written = ask(make_site(count), order, inputs)
    reports, outputs = ask(make_site(count, first_scores=True), order, inputs)
    assert torch.equal(outputs, written)
    for name, report in expected.items():
        assert reports[name]["edit_id"] == report["edit_id"]
        if KINDS[int(name) % len(KINDS)] != "twice":
            assert reports[name] == report
    assert not torch.equal(outputs, torch.ones_like(outputs))
