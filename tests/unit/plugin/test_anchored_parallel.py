"""Two ranks, fitted spaces, anchors and masks: both decide like one rank that holds the whole input."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.ranks import Ranks
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_entry, make_store, publish, update_of
from tests.unit.plugin.spoken import WORDS, ids_of, spoken_rule, spoken_texts
from tests.unit.summing import SummingGroup, make_groups, on_all

NAME = "tenants/default/codebooks/a"
RANKS, REQUESTS, PROMPT = 2, 10, 7
NAMES = ("ann", "bo", "cy", "ann bo", "")


def make_space(buckets: int) -> RoutingSpace:
    generator = torch.Generator().manual_seed(3)
    mean, matrix = torch.randn(D_IN, generator=generator) * 0.2, torch.randn(4, D_IN, generator=generator)
    return RoutingSpace(mean, matrix, torch.rand(97, generator=generator) + 0.1, 0.3 if buckets else 0.0, 1, buckets)


def make_entries(width: int) -> list[Numbered]:
    generator = torch.Generator().manual_seed(4)
    shape: dict[str, Any] = {"span": 2, "mode": ValueMode.ANSWER}
    return [
        (
            number,
            make_entry(
                f"e{number}",
                keys=F.normalize(torch.randn(2, width, generator=generator), dim=1),
                seed=number,
                anchors=tuple(filter(None, (NAMES[number % len(NAMES)],))),
                **shape,
            ),
        )
        for number in range(1, 16)
    ]


def make_site(rule: MethodParameters, space: RoutingSpace | None, group: SummingGroup | None) -> EditSite:
    rank, ranks = (group.rank_in_group, group.world_size) if group else (0, 1)
    store = make_store(256, d_in=D_IN // ranks, shard=(rank, ranks))
    codebooks = PagedCodebooks(store, texts=spoken_texts(), subject_ranges=4)
    width = D_IN if space is None else space.width
    publish(codebooks, update_of(NAME, 1, make_entries(width), rule=rule, space=space))
    positions = torch.arange(PROMPT).repeat(REQUESTS)
    return EditSite(codebooks, num_slots=REQUESTS, positions=positions, ranks=Ranks(group) if group else None)


def step(site: EditSite, inputs: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    rows = []
    for index in range(REQUESTS):
        ids = ids_of([WORDS[int(pick)] for pick in torch.randint(0, len(WORDS), (PROMPT,), generator=generator)])
        rows.append(BatchRow(str(index), RequestTag(NAME, 0.8, explain=4), index * PROMPT, PROMPT, 0, PROMPT, ids))
    site.begin_step(rows)
    outputs = torch.ones(REQUESTS * PROMPT, D_OUT)
    site.run(inputs, outputs)
    return site.take_decisions().reports(), outputs


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("buckets", [None, 0, 8])
def test_two_halves_decide_like_the_whole(buckets: int | None, steps: int) -> None:
    space = None if buckets is None else make_space(buckets)
    rule = spoken_rule(
        mask_subject=True,
        steps=steps,
        gamma=0.2 if steps else 0.0,
        space=None if space is None else "d" * 64,
        threshold=0.6,
        anchored_threshold=0.3,
    )
    inputs = torch.randn(REQUESTS * PROMPT, D_IN, generator=torch.Generator().manual_seed(8))
    whole, outputs = step(make_site(rule, space, None), inputs)
    groups = make_groups(RANKS)
    sites = [make_site(rule, space, group) for group in groups]
    halves = [half.contiguous() for half in inputs.chunk(RANKS, dim=1)]
    results = on_all([partial(step, site, half) for site, half in zip(sites, halves, strict=True)])
    assert results[0][0] == results[1][0]
    for reports, written in results:
        for name, expected in whole.items():
            found = reports[name]
            for field in ("edit_id", "runner_up", "threshold"):
                assert found[field] == expected[field]
            assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert [row["edit_id"] for row in found["nearest"]] == [row["edit_id"] for row in expected["nearest"]]
        torch.testing.assert_close(written, outputs)
    assert len({report["edit_id"] for report in whole.values()}) > 3
    assert groups[0].calls == groups[1].calls
    if space is not None:
        # The queries, once they are complete, and one decision: no scores.
        assert [name for name, _ in groups[0].calls] == ["all_reduce", "broadcast"]
