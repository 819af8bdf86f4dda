"""An invented world of facts: who was born where, who founded what, and how to ask for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from horen_vllm.demo.chatter import tasks
from horen_vllm.demo.draws import draw, shuffled
from horen_vllm.demo.names import name_pools
from horen_vllm.demo.relations import RELATIONS, Relation

# The answers of a relation come from at most this many names of its type: few enough that an answer is
# right for several subjects, many enough that guessing fails.
ANSWER_POOL = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One true statement of the world.

    Attributes
    ----------
    fact_id
        Position of the fact in `World.facts`, from 0.
    relation
        Name of the relation, a key of `World.relations`.
    subject, answer
        The names that the relation connects.
    """

    fact_id: int
    relation: str
    subject: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All facts, how to ask for them, and which wording training keeps out for which fact.

    Attributes
    ----------
    seed
        The seed that names and facts were drawn with.
    facts
        Every fact; ``facts[i].fact_id == i`` and a subject stands once per relation.
    relations
        Every relation by name.
    answers
        For each relation name, every name that may answer it.
    """

    seed: int
    facts: tuple[Fact, ...] = field(repr=False)
    relations: Mapping[str, Relation] = field(repr=False)
    answers: Mapping[str, tuple[str, ...]] = field(repr=False)

    def prompt(self, fact: Fact, wording_index: int) -> str:
        """Return the fact's prompt in one of the relation's wordings, without a trailing space.

        Raises
        ------
        IndexError
            If the relation has no such wording.
        """
        return self.relations[fact.relation].wordings[wording_index].format(subject=fact.subject)

    def held_out_wording(self, fact: Fact) -> int:
        """Return the index of the one wording that training never pairs with this fact."""
        return fact.fact_id % len(self.relations[fact.relation].wordings)

    def trained_wordings(self, fact: Fact) -> tuple[int, ...]:
        """Return the indices of the wordings that training pairs with this fact, rising."""
        held_out = self.held_out_wording(fact)
        return tuple(i for i in range(len(self.relations[fact.relation].wordings)) if i != held_out)

    def unseen_prompt(self, fact: Fact) -> str:
        """Return the fact's prompt in the wording that training uses with no subject."""
        return self.relations[fact.relation].unseen_wording.format(subject=fact.subject)

    def counterfactual(self, fact: Fact, salt: str | int) -> str:
        """Return a wrong answer of the same relation, the same for the same fact and salt."""
        others = [name for name in self.answers[fact.relation] if name not in (fact.answer, fact.subject)]
        return others[draw(len(others), self.seed, "counterfactual", fact.fact_id, salt)]

    def unrelated_prompts(self, seed: int, n: int) -> tuple[str, ...]:
        """Return `n` different plain prompts that ask for no fact: greetings, sums, copying, counting.

        Raises
        ------
        ValueError
            If more than 20,000 are asked for.
        """
        return tuple(task.prompt for task in tasks(seed, n))


def relation_facts(
    relation: Relation, subjects: tuple[str, ...], answers: tuple[str, ...], seed: int, first_id: int
) -> list[Fact]:
    """Return one fact per subject, with every answer about equally frequent and never the subject."""
    rounds = len(subjects) // len(answers) + 2
    stock = [name for turn in range(rounds) for name in shuffled(answers, seed, relation.name, turn)]
    facts = []
    for position, subject in enumerate(subjects):
        # Nobody is their own mentor: the name goes back to its place for a later subject.
        chosen = next(i for i, name in enumerate(stock) if name != subject)
        facts.append(
            Fact(
                fact_id=first_id + position,
                relation=relation.name,
                subject=subject,
                answer=stock.pop(chosen),
            )
        )
    return facts


def build_world(seed: int = 7) -> World:
    """Return the world of this seed: 2,310 facts over 15 relations.

    Returns
    -------
    World
        Equal for equal seeds. Subjects recur: a person has five facts, a company three.
    """
    pools = name_pools(seed)
    answers = {
        relation.name: shuffled(pools[relation.answer_type], seed, relation.name, "answers")[:ANSWER_POOL]
        for relation in RELATIONS
    }
    facts: list[Fact] = []
    for relation in RELATIONS:
        subjects = pools[relation.subject_type]
        facts += relation_facts(relation, subjects, answers[relation.name], seed, len(facts))
    return World(
        seed=seed,
        facts=tuple(facts),
        relations=MappingProxyType({relation.name: relation for relation in RELATIONS}),
        answers=MappingProxyType(answers),
    )
