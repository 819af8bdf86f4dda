import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from horen_vllm.demo.examples import Example, ExampleMaker, batches
from horen_vllm.demo.tokenizer import train_tokenizer
from horen_vllm.demo.world import World, build_world


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return train_tokenizer(world)


@pytest.fixture(scope="module")
def epoch(world: World, tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    return list(ExampleMaker(world, tokenizer, 7).epoch())


@pytest.fixture(scope="module")
def text(tokenizer: PreTrainedTokenizerFast, epoch: list[Example]) -> str:
    return "\n".join(str(tokenizer.decode(list(example.ids))) for example in epoch)


def test_an_epoch_asks_for_every_fact_once_in_a_trained_wording(world: World, text: str) -> None:
    for fact in world.facts[::20]:
        trained = sum(text.count(world.prompt(fact, i)) for i in world.trained_wordings(fact))
        assert trained >= 1
        assert world.prompt(fact, world.held_out_wording(fact)) not in text
        assert world.unseen_prompt(fact) not in text


def test_examples_begin_and_end_with_their_tokens_and_weigh_the_end(epoch: list[Example]) -> None:
    for example in epoch:
        assert (example.ids[0], example.ids[-1]) == (1, 2)
        assert (example.weights[0], example.weights[-1]) == (0.0, 1.0)
        assert len(example.ids) == len(example.weights) <= 512


def test_some_examples_are_long(epoch: list[Example]) -> None:
    assert sum(len(example.ids) > 100 for example in epoch) >= 5


def test_batches_hold_every_example_within_the_limit(epoch: list[Example]) -> None:
    found = batches(epoch, 1024, np.random.default_rng(0))
    assert sorted(e.ids for batch in found for e in batch) == sorted(e.ids for e in epoch)
    assert all(len(batch) * max(len(e.ids) for e in batch) <= 1024 for batch in found)
