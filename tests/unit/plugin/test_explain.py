"""What a request that asks for it is told: the window that was averaged, and which entries were near."""

import json
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.presets import ValueMode
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, replace_all

NAME = "tenants/default/codebooks/a"
QUERY = torch.tensor([[0.8, 0.6, 0.0, 0.0, 0.0, 0.0]])


def axis(*axes: int) -> torch.Tensor:
    return torch.eye(D_IN)[list(axes)]


def make_site() -> EditSite:
    codebooks = make_codebooks()
    entries = [
        make_entry("far", keys=axis(5), span=1, mode=ValueMode.LAST),
        make_entry("near", keys=axis(4, 0), span=1, mode=ValueMode.LAST),
        make_entry("second", keys=axis(1), span=1, mode=ValueMode.LAST),
    ]
    replace_all(codebooks, NAME, 3, *entries)
    return EditSite(codebooks, num_slots=4, positions=torch.arange(16))


def decided(site: EditSite, tags: list[RequestTag], inputs: torch.Tensor) -> list[dict[str, Any]]:
    """Route one request of four tokens for each tag, all with the same site inputs."""
    rows = [BatchRow(str(index), tag, 4 * index, 4, 0, 4) for index, tag in enumerate(tags)]
    site.begin_step(rows)
    site.run(inputs.expand(4, -1).repeat(len(tags), 1), torch.zeros(4 * len(tags), D_OUT))
    reports = site.take_decisions().reports()
    return [reports[str(index)] for index in range(len(tags))]


def test_the_nearest_entries_are_listed_best_first_one_row_an_entry() -> None:
    [report] = decided(make_site(), [RequestTag(NAME, 1.0, explain=9)], QUERY)
    assert [row["edit_id"] for row in report["nearest"]] == ["near", "second", "far"]
    assert [row["score"] for row in report["nearest"]] == pytest.approx([0.8, 0.6, 0.0])
    assert report["edit_id"] is None
    assert report["nearest"][0]["score"] == pytest.approx(report["score"])
    json.dumps(report, allow_nan=False)


def test_each_request_of_a_batch_is_told_what_it_asked_for() -> None:
    tags = [RequestTag(NAME, 1.0), RequestTag(NAME, 1.0, explain=1), RequestTag(NAME, 0.5, (1, 3), explain=2)]
    plain, one, two = decided(make_site(), tags, QUERY)
    assert plain.keys() & {"window", "nearest"} == set()
    assert [row["edit_id"] for row in one["nearest"]] == ["near"]
    assert [row["edit_id"] for row in two["nearest"]] == ["near", "second"]
    assert (one["window"], two["window"]) == ([0, 4], [2, 3])


def test_asking_does_not_change_the_decision() -> None:
    [plain] = decided(make_site(), [RequestTag(NAME, 1.0)], axis(0))
    [asked] = decided(make_site(), [RequestTag(NAME, 1.0, explain=3)], axis(0))
    assert plain["edit_id"] == "near"
    assert plain.items() <= asked.items()


def test_an_empty_codebook_has_nothing_near() -> None:
    site = make_site()
    replace_all(site.codebooks, NAME, 4)
    [report] = decided(site, [RequestTag(NAME, 1.0, explain=3)], QUERY)
    assert (report["nearest"], report["score"]) == ([], None)


def test_an_entry_whose_keys_all_belong_to_a_newer_edit_is_not_near() -> None:
    site = make_site()
    twins = [make_entry(name, keys=axis(0)) for name in ("old", "new")]
    replace_all(site.codebooks, NAME, 4, *twins)
    [report] = decided(site, [RequestTag(NAME, 1.0, explain=3)], QUERY)
    assert [row["edit_id"] for row in report["nearest"]] == ["new"]
    json.dumps(report, allow_nan=False)


def test_a_model_that_computes_nan_is_near_to_nothing() -> None:
    [report] = decided(make_site(), [RequestTag(NAME, 1.0, explain=3)], F.normalize(QUERY) * torch.nan)
    assert report["edit_id"] is None
    assert report["nearest"] == []
    json.dumps(report, allow_nan=False)
