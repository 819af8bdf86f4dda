"""GRACE: the nearest key decides by distance, within a radius that splits may have ended."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.euclid import lifted_key
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import REPLACED
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_codebooks, make_entry, publish, update_of

NAME = "tenants/default/codebooks/a"
RULE = MethodParameters(
    preset="grace", threshold=0.0, window_ratio=1e-6, radius=1.0, value_mode=ValueMode.REPLACE, anchors=True
)
POINTS = st.lists(st.integers(-2, 2), min_size=D_IN, max_size=D_IN).map(lambda it: torch.tensor(it).float())
RADII = st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0])


def grace_entry(number: int, points: list[torch.Tensor], **more: Any) -> Numbered:
    shape: dict[str, Any] = {"span": 1, "mode": ValueMode.REPLACE}
    return number, make_entry(f"e{number}", keys=lifted_key(torch.stack(points)), seed=number, **shape, **more)


def served(
    entries: list[Numbered], asked: list[torch.Tensor], explain: int = 0
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Ask with prompts of two tokens whose last site input is given; return reports and the site's outputs."""
    codebooks = make_codebooks(128)
    publish(codebooks, update_of(NAME, 1, entries, rule=RULE))
    count = len(asked)
    site = EditSite(codebooks, num_slots=count, positions=torch.arange(2).repeat(count))
    tag = RequestTag(NAME, RULE.window_ratio, explain=explain)
    site.begin_step([BatchRow(str(index), tag, 2 * index, 2, 0, 2) for index in range(count)])
    inputs = torch.stack([row for point in asked for row in (torch.full((D_IN,), 9.0), point)])
    outputs = torch.ones(2 * count, D_OUT)
    site.run(inputs, outputs)
    reports = site.take_decisions().reports()
    return [reports[str(index)] for index in range(count)], outputs


@st.composite
def edited(draw: st.DrawFn) -> list[Numbered]:
    made = []
    for number in draw(st.permutations(range(1, 6)))[: draw(st.integers(0, 5))]:
        points = draw(st.lists(POINTS, min_size=1, max_size=2))
        named = draw(st.lists(st.integers(1, 6), max_size=2, unique=True))
        splits = tuple((f"e{other}", draw(RADII)) for other in named if other != number)
        radius = draw(st.one_of(st.none(), RADII))
        made.append(grace_entry(number, points, radius=radius, splits=splits, anchors=("never said",)))
    return made


def ranked_distances(entries: list[Numbered], point: torch.Tensor) -> list[tuple[float, int]]:
    """Return (distance, minus number) of each entry, nearest first; of equal keys only the newest entry's counts."""
    newest: dict[bytes, tuple[torch.Tensor, int]] = {}
    for number, entry in sorted(entries, key=lambda pair: pair[0]):
        newest |= {key.numpy().tobytes(): (key[:D_IN], number) for key in entry.keys}
    distance: dict[int, float] = {}
    for key, number in newest.values():
        distance[number] = min(distance.get(number, math.inf), float((key - point).norm()))
    return sorted((far, -number) for number, far in distance.items())


@settings(max_examples=150, deadline=None)
@given(entries=edited(), asked=st.lists(POINTS, min_size=1, max_size=4))
def test_the_nearest_key_fires_within_its_entrys_radius(entries: list[Numbered], asked: list[torch.Tensor]) -> None:
    radii: dict[str, float] = {}
    for _, entry in entries:
        own = [1.0 if entry.manifest.radius is None else entry.manifest.radius]
        ended = [far for _, it in entries for edit_id, far in it.manifest.splits if edit_id == entry.manifest.edit_id]
        radii[entry.manifest.edit_id] = min(own + ended)
    reports, outputs = served(entries, asked)
    for index, (report, point) in enumerate(zip(reports, asked, strict=True)):
        ranked = ranked_distances(entries, point)
        written = outputs[2 * index + 1]
        assert torch.equal(outputs[2 * index], torch.ones(D_OUT))
        if not ranked:
            assert (report["edit_id"], report["score"], report["threshold"]) == (None, None, -1.0)
            assert torch.equal(written, torch.ones(D_OUT))
            continue
        far, number = ranked[0][0], -ranked[0][1]
        fires = far < radii[f"e{number}"]
        assert report["edit_id"] == (f"e{number}" if fires else None)
        assert (report["score"], report["threshold"]) == (pytest.approx(-far), -radii[f"e{number}"])
        second = f"e{-ranked[1][1]}" if len(ranked) > 1 else None
        assert report["runner_up"] == second
        value = dict(entries)[number].values[0]
        assert torch.equal(written, value if fires else torch.ones(D_OUT))


def test_a_split_counts_only_while_the_entry_that_made_it_is_there() -> None:
    point, near = torch.zeros(D_IN), torch.eye(D_IN)[0]
    first = grace_entry(1, [near], radius=2.0)
    second = grace_entry(2, [near * 9], radius=0.5, splits=(("e1", 0.75),))
    assert served([first], [point])[0][0]["edit_id"] == "e1"
    assert served([first, second], [point])[0][0]["edit_id"] is None


def test_distances_are_explained_with_each_entrys_own_radius() -> None:
    axis = torch.eye(D_IN)
    entries = [grace_entry(1, [axis[0] * 3], radius=2.0), grace_entry(2, [axis[1]], radius=0.5)]
    [report], _ = served(entries, [torch.zeros(D_IN)], explain=5)
    assert (report["edit_id"], report["score"], report["threshold"]) == (None, -1.0, -0.5)
    assert report["nearest"] == [
        {"edit_id": "e2", "score": -1.0},
        {"edit_id": "e1", "score": pytest.approx(-3.0), "threshold": -2.0},
    ]


def test_the_value_replaces_the_output() -> None:
    codebooks = make_codebooks(128)
    view = publish(codebooks, update_of(NAME, 1, [grace_entry(1, [torch.ones(D_IN)])], rule=RULE))
    assert view.value_table[0].tolist()[1:] == [1, 1, REPLACED]
    assert view.names is None
