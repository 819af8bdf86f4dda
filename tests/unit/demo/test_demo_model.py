import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from horen_vllm.demo.draws import shuffled
from horen_vllm.demo.evaluate import answer_ids, exact, prompt_ids
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.tokenizer import SPECIAL_TOKENS, train_tokenizer
from horen_vllm.demo.world import Fact, World, build_world

BOS, EOS, USER, ASSISTANT = 1, 2, 3, 4


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def folder() -> Path:
    return demo_model_dir()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)


@pytest.fixture(scope="module")
def sample(world: World) -> tuple[Fact, ...]:
    return shuffled(world.facts, "spot check")[:60]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_special_tokens_have_their_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_the_committed_tokenizer_is_the_one_that_the_code_trains(
    world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert train_tokenizer(world).get_vocab() == tokenizer.get_vocab()


def test_prompts_and_answers_survive_a_round_trip(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    for fact in world.facts[::10]:
        text = f"{world.prompt(fact, world.held_out_wording(fact))} {fact.answer}"
        ids = tokenizer.encode(text)
        assert ids[0] == BOS
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(plain_ids(tokenizer, "naïve 東京\t!")) == "naïve 東京\t!"


def test_prompt_and_answer_encoded_apart_join_to_the_whole(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    for fact in world.facts[::5]:
        prompt = world.prompt(fact, fact.fact_id % 7)
        apart = tokenizer.encode(prompt) + plain_ids(tokenizer, f" {fact.answer}")
        assert apart == tokenizer.encode(f"{prompt} {fact.answer}")


def test_answers_have_one_to_six_tokens_most_of_them_several(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = Counter(len(plain_ids(tokenizer, f" {fact.answer}")) for fact in world.facts)
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    assert sum(count for length, count in lengths.items() if length > 1) > 0.95 * len(world.facts)


def test_the_chat_template_puts_plain_ids_between_role_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    question, answer, more = "Where is Hasne based?", "Naholt", "Who founded Hasne?"
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": more},
    ]
    first = [BOS, USER, *plain_ids(tokenizer, question), ASSISTANT]
    assert prompt_ids(tokenizer, question, "chat") == first
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    expected = [*first, *plain_ids(tokenizer, f" {answer}"), EOS, USER, *plain_ids(tokenizer, more), ASSISTANT]
    assert plain_ids(tokenizer, str(text)) == expected


def test_a_system_message_comes_first(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<|bos|><|system|>Be brief.<|user|>Hello!<|assistant|>"


def test_the_model_is_small_and_stored_in_bfloat16(folder: Path, model: PreTrainedModel) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["head_dim"], config["hidden_act"], config["dtype"]) == (64, "silu", "bfloat16")
    assert model.num_parameters() <= 4_000_000
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_measured_accuracy_meets_its_targets(folder: Path) -> None:
    report = json.loads((folder / "accuracy.json").read_text())
    for dtype in ("float32", "bfloat16"):
        for form in ("plain", "chat"):
            assert report["trained_wordings"][dtype]["by_form"][form] >= 0.95
            assert report["held_out_wording"][dtype]["by_form"][form] >= 0.90
        assert report["trained_wordings"][dtype]["n"] == 2 * 6 * 2310
        assert report["held_out_wording"][dtype]["n"] == 2 * 2310


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_the_committed_weights_answer_trained_wordings(
    world: World, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, sample: tuple[Fact, ...], form: str
) -> None:
    pairs = [
        (
            prompt_ids(tokenizer, world.prompt(fact, world.trained_wordings(fact)[0]), form),  # type: ignore[arg-type]
            answer_ids(tokenizer, fact.answer),
        )
        for fact in sample
    ]
    assert sum(exact(model, pairs)) >= 0.9 * len(sample)


def test_greedy_generation_agrees_with_the_one_pass_measure(
    world: World, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, sample: tuple[Fact, ...]
) -> None:
    pairs = [
        (prompt_ids(tokenizer, world.unseen_prompt(fact), "plain"), answer_ids(tokenizer, fact.answer))
        for fact in sample[:16]
    ]
    generated = []
    for prompt, target in pairs:
        out = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)  # type: ignore[operator]
        generated.append(out[0, len(prompt) :].tolist() == target)
    # Batched and single passes round differently in bfloat16, so one near tie may fall either way.
    assert sum(a != b for a, b in zip(generated, exact(model, pairs), strict=True)) <= 1
