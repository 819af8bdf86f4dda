"""1,000 edits of the demo world that get into each other's way: every batching gives what one at a time gives."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import torch

from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import World, build_world
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.editing import EditOutcome
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.training.adaptor import ValueLayout
from horen_vllm.editor.training.verify import generate
from horen_vllm.errors import HorenError
from horen_vllm.registry.models import EditSpec
from tests.unit.editor.making import Book, edit_record

EDITS: Final = 1000
SIZES: Final = (7, 64, EDITS)
THRESHOLD: Final = 0.85
"""Low enough that wordings of a fact, and some facts, share basins."""


def specs(world: World) -> Iterator[EditSpec]:
    """Edits of every kind: new, repeated, contradictory, paraphrased, wrong."""
    generator = random.Random(4)
    facts = generator.sample(list(world.facts), EDITS)
    for number, fact in enumerate(facts):
        prompt, target = world.prompt(fact, world.trained_wordings(fact)[0]), world.counterfactual(fact, number)
        other = facts[generator.randrange(max(number, 1))]
        asked = world.prompt(other, world.trained_wordings(other)[0])
        first = world.counterfactual(other, facts.index(other))
        kinds = [
            EditSpec(prompt=prompt, target=target),
            EditSpec(prompt=prompt, target=target, paraphrases=(world.prompt(fact, world.held_out_wording(fact)),)),
            EditSpec(
                prompt=prompt, target=target, must_not_fire=(asked, world.prompt(fact, world.held_out_wording(fact)))
            ),
            EditSpec(prompt=asked, target=world.counterfactual(other, number)),
            EditSpec(prompt=asked, target=first),
            EditSpec(prompt=world.prompt(other, world.held_out_wording(other)), target=first),
            EditSpec(prompt=prompt, target=target, paraphrases=(asked,)),
            EditSpec(prompt=prompt * 60, target=target),
        ]
        yield generator.choices(kinds, weights=[12, 3, 3, 2, 2, 2, 1, 1])[0]


def story(outcome: EditOutcome | HorenError) -> Any:
    if isinstance(outcome, HorenError):
        return outcome.code
    return (
        outcome.kind,
        outcome.base_revision,
        outcome.same_as,
        outcome.alias_of,
        outcome.supersedes,
        outcome.overlaps,
        outcome.already_answered,
    )


def answers(editable: EditableModel, outcome: EditOutcome) -> list[tuple[int, ...]]:
    """Return what the whole model answers greedily in every context of the entry."""
    assert outcome.artifact is not None
    manifest = outcome.artifact.manifest
    layout = ValueLayout(manifest.span, manifest.chunk, manifest.rank)
    contexts = [EditContext(PromptForm.PLAIN, "", one.prompt_ids, one.span) for one in manifest.contexts]
    return [generate(editable, context, outcome.artifact.values, layout, manifest.span) for context in contexts]


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_a_thousand_edits_come_out_alike_in_every_batching() -> None:
    torch.set_num_threads(1)
    editable = load_editable_model(str(demo_model_dir()))
    parameters = preset_parameters("cosine", "demo", threshold=THRESHOLD)
    records = [
        replace(edit_record(spec.prompt, spec.target, sequence=number), spec=spec)
        for number, spec in enumerate(specs(build_world()), 1)
    ]
    expected = Book(editable, parameters).make(records)
    told = [story(outcome) for outcome in expected]
    assert {one[0] for one in told if isinstance(one, tuple)} == set(AdmissionKind)
    failed = {one for one in told if isinstance(one, str)}
    assert {"earlier_entry_silenced", "must_not_fire_fires", "prompt_too_long"} <= failed
    for size in SIZES:
        found = Book(editable, parameters).make(records, size)
        assert [story(outcome) for outcome in found] == told, size
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if isinstance(one, EditOutcome) and isinstance(other, EditOutcome) and one.artifact and other.artifact:
                torch.testing.assert_close(other.artifact.keys, one.artifact.keys, atol=1e-6, rtol=0.0)
                if number % 10 == 0:
                    assert answers(editable, other) == answers(editable, one)
