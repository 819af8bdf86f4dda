"""The paper's plain loop: its routing against the reference, its answers against the oracle, and what a run refuses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from bench.method import MANY, ONE, PAPER, summary
from bench.method_sides import Answers, Book, ask_paper, made_book, paper_rule
from bench.oracle_hf import TINY, HfOracle, OracleBook, OracleEntry, write_random_model
from bench.paper_serving import PlainBook, PlainServer, plain_route
from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters

PROMPTS = [[11, 12, 13, 14, 15], [500, 30, 7, 81, 9, 610, 44], [300]]
TOKENS = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model"), TINY)


def server_of(folder: Path, *, cache: bool) -> PlainServer:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return PlainServer(model, TINY.site, paper_rule(), cache=cache)


@pytest.fixture(scope="module")
def server(folder: Path) -> PlainServer:
    return server_of(folder, cache=True)


@pytest.fixture
def book(server: PlainServer) -> Iterator[Book]:
    made = made_book(server, PROMPTS, 40)
    server.layer.book = made.plain
    yield made
    server.layer.book = None


@pytest.mark.parametrize("gamma", [0.01, 0.5], ids=["paper", "far"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_it_routes_as_the_reference_does(steps: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(steps)
    keys = F.normalize(torch.randn(50, 24, generator=generator), dim=-1)
    noise = torch.linspace(0.05, 1.5, 40)[:, None] * torch.randn(40, 24, generator=generator)
    queries = F.normalize(keys[:40] + noise, dim=-1)
    rule = MethodParameters(preset="test", threshold=0.75, gamma=gamma, steps=steps)
    reference = route(queries, KeyTable(keys, torch.arange(50), torch.arange(50)), rule)
    found = [plain_route(query, keys, rule) for query in queries]
    assert found == [decision.entry for decision in reference]
    assert 0 < sum(entry is None for entry in found) < 40


def test_a_query_near_its_attractor_stops() -> None:
    keys = F.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    rule = MethodParameters(preset="test", threshold=0.5, beta=500.0, gamma=0.9, steps=3)
    assert plain_route(keys[3], keys, rule) == 3


def test_an_empty_codebook_matches_nothing() -> None:
    assert plain_route(torch.ones(4) / 2, torch.empty(0, 4), paper_rule()) is None


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no-cache"])
def test_it_answers_as_the_oracle_does(folder: Path, cache: bool) -> None:
    oracle, server = HfOracle(folder, TINY.site), server_of(folder, cache=cache)
    book = made_book(server, PROMPTS, 40)
    server.layer.book = book.plain
    rule = paper_rule()
    entries = tuple(
        OracleEntry(f"e{row}", row, book.plain.keys[row : row + 1], book.plain.values[row : row + 1], "answer", TOKENS)
        for row in range(40)
    )
    theirs = OracleBook(entries, rule.threshold, rule.gamma, rule.steps, rule.window_ratio, rule.beta, rule.epsilon)
    for prompt, owner in zip(PROMPTS, book.owners, strict=True):
        expected = oracle.answer(prompt, theirs, TOKENS)
        found = server.answer(prompt, TOKENS)
        assert expected.edit_id == f"e{owner}"
        assert found.chosen == [owner] * TOKENS
        assert found.tokens == expected.tokens != oracle.answer(prompt, None, TOKENS).tokens


def test_an_unmatched_prompt_is_answered_by_the_clean_model(folder: Path, server: PlainServer, book: Book) -> None:
    server.layer.book = PlainBook(-book.plain.keys, book.plain.values)
    found = server.answer(PROMPTS[1], TOKENS)
    assert found.chosen == [None] * TOKENS
    assert found.tokens == HfOracle(folder, TINY.site).answer(PROMPTS[1], None, TOKENS).tokens


def test_a_run_refuses_an_answer_by_another_entry(server: PlainServer, book: Book) -> None:
    answers = ask_paper(server, book, PROMPTS, [0, 2], TOKENS)
    assert [len(tokens) for tokens in answers.tokens] == [TOKENS, TOKENS]
    assert 0 < answers.routing_seconds < answers.seconds
    assert answers.floor_seconds > 0
    wrong = replace(book, owners=(1, *book.owners[1:]))
    with pytest.raises(RuntimeError, match="for entry 1"):
        ask_paper(server, wrong, PROMPTS, [0], TOKENS)


def test_ratios_are_taken_within_a_round() -> None:
    rounds = [
        {
            PAPER: Answers(seconds, [[1, 2, 3, 4]], seconds / 4, floor_seconds=seconds / 2),
            ONE: Answers(seconds / 2, [[1, 2, 9, 4]]),
            MANY: Answers(seconds / 2, [[1, 2, 3, 4]] * 4),
        }
        for seconds in (1.0, 2.0, 8.0)
    ]
    found = summary(rounds)
    assert found["edited_tokens_a_second"][PAPER]["median"] == 2.0
    assert found["ratios"]["server_one_to_paper"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["ratios"]["server_many_to_paper"]["median"] == 8.0
    assert found["ratios"]["batching"]["median"] == 4.0
    assert found["paper_times_its_weights_floor"] == 1.5
    assert (found["routing_share_of_paper"], found["same_tokens_share"]) == (0.25, 0.75)
