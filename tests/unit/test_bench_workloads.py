"""The serving benchmark's requests: lengths, what rounds share, and what comes from the prefix cache."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bench.serving_cells import LONG, PREFIXED, SHORT, fleets, grid
from bench.serving_load import _inputs
from bench.serving_rows import RoundNumbers, Rule
from bench.serving_workloads import CHAT, FOLDER, ROUNDS, load_workload
from bench.serving_workloads import main as write_workloads
from horen_vllm.demo.paths import demo_model_dir


@pytest.mark.parametrize("name", [LONG, SHORT, PREFIXED])
def test_no_prompt_is_asked_twice_in_a_run_of_the_whole_grid(name: str) -> None:
    workload, numbers = load_workload(name, 16), RoundNumbers()
    groups = [group for fleet in fleets(grid(on_gpu=False), together=False) for group in fleet.groups]
    taken = [number for group in groups if group.workload == name for number in numbers.take(name, 11)]
    assert taken == list(range(len(taken)))
    prompts = [tuple(prompt) for number in taken for prompt in workload.of_round(number)]
    assert len(prompts) == len(set(prompts)) == 16 * len(taken)
    lengths = {len(prompt) for prompt in prompts}
    assert lengths == {len(workload.prompts[0])}
    # What another round may share with it is the prefix alone.
    first, second = workload.of_round(0), workload.of_round(1)
    assert first[0][: workload.shared] == second[5][: workload.shared]
    assert first[0][workload.shared] != second[0][workload.shared]


def test_rounds_that_cannot_be_told_apart_are_refused() -> None:
    workload = load_workload(LONG, 1)
    assert workload.of_round(ROUNDS - 1)[0][0] == ROUNDS
    with pytest.raises(ValueError, match="round 900"):
        workload.of_round(ROUNDS)


@pytest.mark.parametrize(
    ("name", "block", "plain", "routed"),
    [
        pytest.param(LONG, 32, 0, 0, id="long"),
        pytest.param(SHORT, 32, 0, 0, id="short"),
        # 384 prompt tokens, 352 of them shared; the window takes ceil(.6 * 384) = 231, so it begins at 153.
        pytest.param(PREFIXED, 32, 352, 128, id="prefixed"),
        pytest.param(PREFIXED, 16, 352, 144, id="prefixed-small-blocks"),
        # A chat's window lies in its question, behind all that is shared.
        pytest.param(CHAT, 32, 352, 352, id="chat"),
    ],
)
def test_what_comes_from_the_prefix_cache(name: str, block: int, plain: int, routed: int) -> None:
    rule = Rule(load_workload(name, 3), 2, block, 0.6)
    assert (rule.cached(routed=False), rule.cached(routed=True)) == (3 * plain, 3 * routed)


def test_chats_are_of_one_length_in_every_round_and_share_their_system_prompt(tmp_path: Path) -> None:
    workload = load_workload(CHAT, 64)
    tokenizer: Any = AutoTokenizer.from_pretrained(demo_model_dir(), local_files_only=True)
    start, stop = workload.span
    for number in (0, 7, 42, 899):
        chats = workload.of_round(number)
        for place in (0, 1, 63):
            chat: Any = chats[place]
            ids: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            assert tuple(ids[:start]) == workload.prompts[0][:start]
            assert tuple(ids[start + 3 :]) == workload.prompts[place][start + 3 :]
            assert (len(ids), stop, tokenizer.decode(ids[start : start + 3])) == (384, 383, f"{number:03}")
    assert len({str(chat) for number in range(20) for chat in workload.of_round(number)}) == 20 * 64


def test_the_files_are_what_their_maker_writes(tmp_path: Path) -> None:
    write_workloads(tmp_path)
    for path in FOLDER.glob("*.json"):
        assert (tmp_path / path.name).read_text() == path.read_text(), path.name


def test_chats_are_asked_as_chats() -> None:
    workload = load_workload(CHAT, 2)
    asked = _inputs("http://x", ["a"] * 2, workload, workload.of_round(4), "a")
    assert {it.api_url for it in asked} == {"http://x/v1/chat/completions"}
    assert [it.prompt_len for it in asked] == [384, 384]
    messages: Any = asked[1].prompt
    system, user = messages
    assert (system["role"], system["content"]) == ("system", workload.system)
    assert (user["role"], user["content"]) == ("user", f"004{workload.questions[1]}")


def test_all_sides_get_the_same_prompts_under_salts_of_their_own() -> None:
    workload = load_workload(SHORT, 2)
    one, other = (_inputs("http://x", [model] * 2, workload, workload.of_round(4), model) for model in ("a", "b"))
    assert [it.prompt for it in one] == [it.prompt for it in other]
    assert {it.extra_body["cache_salt"] for it in one if it.extra_body} == {"a"}
    assert [(it.model, it.output_len, it.ignore_eos) for it in other] == [("b", 32, True)] * 2
