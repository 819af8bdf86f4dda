"""Which facts the demo edits, and what it asks beside them."""

import random
from dataclasses import dataclass

from horen_vllm.demo.world import Fact, World, build_world


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
