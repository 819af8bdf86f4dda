from collections import Counter, defaultdict

import pytest

from horen_vllm.demo.draws import draw, shuffled
from horen_vllm.demo.names import name_pools
from horen_vllm.demo.world import World, build_world


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def test_the_world_is_large_enough(world: World) -> None:
    assert len(world.facts) == 2310
    assert len(world.relations) == 15
    assert all(len(r.wordings) >= 6 for r in world.relations.values())
    assert min(Counter(f.relation for f in world.facts).values()) >= 100


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: World) -> None:
    assert build_world(7) == world
    assert build_world(8).facts != world.facts


def test_facts_are_numbered_by_position(world: World) -> None:
    assert [f.fact_id for f in world.facts] == list(range(len(world.facts)))


def test_a_subject_stands_once_per_relation_and_recurs_over_relations(world: World) -> None:
    assert max(Counter((f.relation, f.subject) for f in world.facts).values()) == 1
    relations = defaultdict(set)
    for fact in world.facts:
        relations[fact.subject].add(fact.relation)
    assert all(2 <= len(found) <= 5 for found in relations.values())


def test_no_name_belongs_to_two_types(world: World) -> None:
    names = [name for pool in name_pools(world.seed).values() for name in pool]
    assert len(names) == len(set(names))


def test_answers_are_of_the_relations_pool_and_never_the_subject(world: World) -> None:
    for fact in world.facts:
        assert fact.answer in world.answers[fact.relation]
        assert fact.answer != fact.subject


def test_no_answer_dominates_its_relation(world: World) -> None:
    for name in world.relations:
        assert len(world.answers[name]) >= 40
        counts = Counter(f.answer for f in world.facts if f.relation == name)
        assert max(counts.values()) - min(counts.values()) <= 2


def test_wordings_hold_the_subject_once_and_end_where_the_answer_begins(world: World) -> None:
    for relation in world.relations.values():
        wordings = (*relation.wordings, relation.unseen_wording)
        assert len(set(wordings)) == len(wordings)
        for wording in wordings:
            assert wording.count("{subject}") == 1
            assert wording == wording.strip()


def test_no_two_prompts_of_different_facts_are_alike(world: World) -> None:
    prompts = [
        prompt
        for fact in world.facts
        for prompt in (*(world.prompt(fact, i) for i in range(7)), world.unseen_prompt(fact))
    ]
    assert len(prompts) == len(set(prompts))


def test_a_fact_keeps_one_wording_out_which_others_are_trained_with(world: World) -> None:
    trained_with: dict[str, set[int]] = defaultdict(set)
    held_out: dict[str, set[int]] = defaultdict(set)
    for fact in world.facts:
        kept_out, trained = world.held_out_wording(fact), world.trained_wordings(fact)
        assert kept_out not in trained
        assert sorted((kept_out, *trained)) == list(range(7))
        trained_with[fact.relation].update(trained)
        held_out[fact.relation].add(kept_out)
    assert all(found == set(range(7)) for found in (*trained_with.values(), *held_out.values()))


def test_the_unseen_wording_is_none_of_the_trained_ones(world: World) -> None:
    for fact in world.facts[::50]:
        assert world.unseen_prompt(fact) not in {world.prompt(fact, i) for i in range(7)}
        assert fact.subject in world.unseen_prompt(fact)


def test_a_counterfactual_is_another_answer_of_the_relation(world: World) -> None:
    for fact in world.facts[::7]:
        wrong = world.counterfactual(fact, 1)
        assert wrong == world.counterfactual(fact, 1)
        assert wrong in world.answers[fact.relation]
        assert wrong not in (fact.answer, fact.subject)
    assert len({world.counterfactual(world.facts[0], salt) for salt in range(30)}) > 10


def test_unrelated_prompts_differ_and_name_no_subject(world: World) -> None:
    prompts = world.unrelated_prompts(3, 1000)
    assert prompts == world.unrelated_prompts(3, 1000)
    assert len(set(prompts)) == 1000
    subjects = {fact.subject for fact in world.facts}
    assert not any(subject in prompt for prompt in prompts[:200] for subject in subjects)


def test_too_many_unrelated_prompts_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="different tasks"):
        world.unrelated_prompts(3, 20_001)


def test_draws_depend_on_the_key_only_and_need_an_outcome() -> None:
    assert draw(1000, "a", 1) == draw(1000, "a", 1)
    assert len({draw(1000, "a", i) for i in range(100)}) > 80
    assert sorted(shuffled(range(50), "k")) == list(range(50))
    assert shuffled(range(50), "k") != shuffled(range(50), "l")
    with pytest.raises(ValueError, match="at least one outcome"):
        draw(0, "a")
