"""Open and anchored entries, masks and spaces: what is reported is what a straightforward reference decides."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_codebooks, make_entry, publish, update_of
from tests.unit.plugin.spoken import WORDS, Found, Reference, Spoken, ids_of, spoken_rule, spoken_texts

NAME = "tenants/default/codebooks/a"
NAMES = ("ann", "bo", "cy", "ann bo", "bo cy", "the king")
RATIO = 0.6


def served(
    entries: list[Numbered],
    rule: MethodParameters,
    asked: list[Spoken],
    space: RoutingSpace | None = None,
    most: int = 4,
) -> list[dict[str, Any]]:
    """Route all requests in one step and return their reports in order."""
    codebooks = make_codebooks(512, 256, texts=spoken_texts(), subject_ranges=most)
    publish(codebooks, update_of(NAME, 1, entries, rule=rule, space=space))
    total = sum(len(it.words) for it in asked)
    site = EditSite(codebooks, num_slots=len(asked), positions=torch.arange(total))
    rows, first = [], 0
    for number, it in enumerate(asked):
        tag, length = RequestTag(NAME, RATIO, it.span), len(it.words)
        rows.append(BatchRow(str(number), tag, first, length, 0, length, ids_of(it.words)))
        assert tag.window(length) == it.window
        first += length
    site.begin_step(rows)
    site.run(torch.cat([it.inputs for it in asked]), torch.zeros(total, D_OUT))
    reports = site.take_decisions().reports()
    return [reports[str(number)] for number in range(len(asked))]


def spoken(words: tuple[str, ...], inputs: torch.Tensor, span: tuple[int, int] | None = None) -> Spoken:
    start, stop = span or (0, len(words))
    return Spoken(words, inputs, (start, stop), (stop - math.ceil(RATIO * (stop - start)), stop))


def axes(*numbers: int) -> torch.Tensor:
    return torch.eye(D_IN)[list(numbers)]


def check(found: dict[str, Any], expected: Found) -> None:
    if expected.tied:
        return
    score = found["score"] if found["score"] is not None else -math.inf
    runner_up_score = found["runner_up_score"] if found["runner_up_score"] is not None else -math.inf
    assert found["edit_id"] == expected.edit_id
    assert score == pytest.approx(expected.score, abs=1e-5)
    assert (found["runner_up"], found["threshold"]) == (expected.runner_up, expected.threshold)
    assert runner_up_score == pytest.approx(expected.runner_up_score, abs=1e-5)
    assert found.get("left_out", 0) == expected.left_out


@st.composite
def edited(draw: st.DrawFn) -> list[Numbered]:
    """Entries whose keys are axes, so that they tie with each other often and exactly."""
    numbers = draw(st.permutations(range(1, 8)))
    made = []
    for number in numbers[: draw(st.integers(0, 7))]:
        keys = axes(*draw(st.lists(st.integers(0, D_IN - 1), min_size=1, max_size=2)))
        anchors = tuple(draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True)))
        shape: dict[str, Any] = {"span": 1, "mode": ValueMode.LAST, "anchors": anchors}
        made.append((number, make_entry(f"e{number}", keys=keys, seed=number, **shape)))
    return made


@st.composite
def questions(draw: st.DrawFn) -> list[Spoken]:
    made = []
    for _ in range(draw(st.integers(1, 4))):
        words = tuple(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)))
        inputs = axes(*draw(st.lists(st.integers(0, D_IN - 1), min_size=len(words), max_size=len(words))))
        first = draw(st.integers(0, len(words) - 1))
        span = draw(st.sampled_from([None, (first, len(words))]))
        made.append(spoken(words, inputs, span))
    return made


@settings(max_examples=250, deadline=None)
@given(
    entries=edited(),
    asked=questions(),
    bounds=st.tuples(*[st.sampled_from([-1.0, 0.0, 0.3, 0.6, 0.8, 1.0])] * 2),
    masks=st.booleans(),
    anchors=st.booleans(),
    most=st.integers(1, 3),
)
def test_every_report_is_the_references(
    entries: list[Numbered],
    asked: list[Spoken],
    bounds: tuple[float, float],
    masks: bool,
    anchors: bool,
    most: int,
) -> None:
    changes = {"threshold": bounds[0], "anchored_threshold": bounds[1], "mask_subject": masks and anchors}
    rule = spoken_rule(anchors=anchors, **changes)
    reference = Reference(entries, rule, most=most)
    for found, it in zip(served(entries, rule, asked, most=most), asked, strict=True):
        check(found, reference.decide(it))


def random_space(generator: torch.Generator, buckets: int) -> RoutingSpace:
    return RoutingSpace(
        mean=torch.randn(D_IN, generator=generator) * 0.3,
        matrix=torch.randn(4, D_IN, generator=generator),
        rarity=torch.rand(97, generator=generator) + 0.1,
        word_share=0.3 if buckets else 0.0,
        order=2,
        word_buckets=buckets,
    )


def random_questions(generator: torch.Generator, count: int) -> list[Spoken]:
    made = []
    for _ in range(count):
        length = int(torch.randint(4, 14, (1,), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator)
        words = tuple(WORDS[int(pick)] for pick in picks)
        made.append(spoken(words, torch.randn(length, D_IN, generator=generator), (length // 4, length)))
    return made


@pytest.mark.parametrize("buckets", [None, 0, 16])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_spaces_words_and_refinement_decide_as_in_the_reference(
    buckets: int | None, masks: bool, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    space = None if buckets is None else random_space(generator, buckets)
    digest = None if space is None else "d" * 64
    bounds = (0.3, 0.2) if buckets == 16 else (0.7, 0.6)
    rule = spoken_rule(
        mask_subject=masks,
        steps=steps,
        gamma=0.2 if steps else 0.0,
        space=digest,
        threshold=bounds[0],
        anchored_threshold=bounds[1],
    )
    width = D_IN if space is None else space.width
    entries: list[Numbered] = []
    for number in range(1, 14):
        keys = F.normalize(torch.randn(2, width, generator=generator), dim=1)
        anchors = (NAMES[number % len(NAMES)],) if number % 3 else ()
        shape: dict[str, Any] = {"span": 1, "mode": ValueMode.LAST, "anchors": anchors}
        entries.append((number, make_entry(f"e{number}", keys=keys, seed=number, **shape)))
    asked = random_questions(generator, 12)
    reference, fired = Reference(entries, rule, space), set()
    for found, it in zip(served(entries, rule, asked, space), asked, strict=True):
        expected = reference.decide(it)
        check(found, expected)
        fired.add(expected.edit_id)
    assert len(fired) > 2


def test_a_request_is_decided_as_alone_whatever_else_is_in_the_batch() -> None:
    generator = torch.Generator().manual_seed(5)
    space = random_space(generator, 8)
    rule = spoken_rule(mask_subject=True, space="d" * 64, threshold=0.2, anchored_threshold=0.1)
    keys = F.normalize(torch.randn(6, space.width, generator=generator), dim=1)
    entries = [(n + 1, make_entry(f"e{n}", keys=keys[n : n + 1], seed=n, anchors=(NAMES[n],))) for n in range(6)]
    asked = random_questions(generator, 9)
    together = served(entries, rule, asked, space)
    assert together == [served(entries, rule, [it], space)[0] for it in asked]
    assert len({report["edit_id"] for report in together}) > 2


def test_a_masked_query_is_found_in_any_word_order_of_another_script() -> None:
    """The name is found inside an unspaced run, and only its own bytes are left out of the query."""
    rule = spoken_rule(mask_subject=True, threshold=1.0, anchored_threshold=0.99)
    entries = [
        (1, make_entry("tokyo", keys=axes(1), anchors=("東 京",))),
        (2, make_entry("kyoto", keys=axes(1), anchors=("京 都",))),
    ]
    ids = ids_of(["東京の王"])
    assert len(ids) == 1 + 12
    inputs = axes(*([0] * 7), *([1] * 6))
    codebooks = make_codebooks(texts=spoken_texts())
    publish(codebooks, update_of(NAME, 1, entries, rule=rule))
    site = EditSite(codebooks, num_slots=1, positions=torch.arange(16))
    site.begin_step([BatchRow("r", RequestTag(NAME, 1.0), 0, 13, 0, 13, ids)])
    site.run(inputs, torch.zeros(13, D_OUT))
    [report] = site.take_decisions().reports().values()
    # A space before the name's first character is no part of it.
    expected = float(F.normalize(axes(0, *([1] * 6)).sum(0), dim=0)[1])
    assert (report["edit_id"], report["threshold"]) == (None, 0.99)
    assert report["score"] == pytest.approx(expected)
