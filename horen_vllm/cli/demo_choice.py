"""Which facts the demo edits, what it asks beside them, and the threshold fitted on none of those."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transformers.utils.logging import disable_progress_bar

from horen_vllm.core.presets import preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import Fact, World, build_world
from horen_vllm.editor.calibrate import fit_threshold
from horen_vllm.editor.loading.model import load_editable_model

BACKGROUND: Final = 600
FALSE_FIRE_RATE: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One fact to edit."""

    fact_id: int
    subject: str
    prompt: str
    target: str
    paraphrase: str
    unrelated: str
    unrelated_fact_id: int


def choose(count: int, seed: int, world: World | None = None) -> tuple[Choice, ...]:
    """Return `count` facts to edit, spread over the relations, each with a question about an unedited fact."""
    world = world or build_world()
    facts = spread(world, 2 * count, random.Random(seed))
    edited, others = facts[:count], facts[count:]
    return tuple(
        Choice(
            fact_id=fact.fact_id,
            subject=fact.subject,
            prompt=world.prompt(fact, world.trained_wordings(fact)[0]),
            target=world.counterfactual(fact, seed),
            paraphrase=world.prompt(fact, world.held_out_wording(fact)),
            unrelated=world.prompt(other, world.trained_wordings(other)[0]),
            unrelated_fact_id=other.fact_id,
        )
        for fact, other in zip(edited, others, strict=True)
    )


def spread(world: World, count: int, generator: random.Random) -> list[Fact]:
    """Return `count` facts drawn without repetition, taking the relations in turn."""
    by_relation = {name: [fact for fact in world.facts if fact.relation == name] for name in world.relations}
    for facts in by_relation.values():
        generator.shuffle(facts)
    turns = max(len(facts) for facts in by_relation.values())
    in_turn = [facts[turn] for turn in range(turns) for facts in by_relation.values() if turn < len(facts)]
    return in_turn[:count]


def fit_demo_threshold(choices: Sequence[Choice], *, preset: str, model: Path | None = None) -> float:
    """Return c for a codebook of these edits: at most `FALSE_FIRE_RATE` of background questions fire.

    The background is facts that are neither edited nor asked about.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    world, folder = build_world(), str(model or demo_model_dir())
    used = {choice.fact_id for choice in choices} | {choice.unrelated_fact_id for choice in choices}
    background = [fact for fact in world.facts if fact.fact_id not in used]
    random.Random(0).shuffle(background)
    prompts = [world.prompt(fact, world.trained_wordings(fact)[0]) for fact in background[:BACKGROUND]]
    fitted = fit_threshold(
        load_editable_model(folder),
        prompts,
        preset_parameters(preset, folder, 0.9),
        # Every entry has a key for the plain and one for the chat form of its prompt.
        num_keys=2 * len(choices),
        false_fire_rate=FALSE_FIRE_RATE,
        seed=0,
    )
    return round(fitted.threshold, 4)
