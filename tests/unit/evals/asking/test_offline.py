"""Answers without a server: how long they are, and what saved codebooks say."""

from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.demo_choice import choose
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.asking.offline import TransformersAnswerer
from horen_vllm.evals.records import Protocol, Question, QuestionKind
from horen_vllm.static import read_static

from .saved_books import save_book

CHOICES = choose(3, seed=4)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> TransformersAnswerer:
    folder = save_book(tmp_path_factory.mktemp("books"), "facts", {it.prompt: it.target for it in CHOICES[:2]})
    return TransformersAnswerer(demo_model_dir(), name="demo", codebooks=folder)


def question(prompt: str, model: str = "demo", **lengths: Any) -> Question:
    return Question(
        question_id="q",
        arm="base",
        model=model,
        checkpoint=0,
        protocol=Protocol.CONTINUATION,
        kind=QuestionKind.CONTINUE,
        prompt=prompt,
        **lengths,
    )


@pytest.mark.parametrize("model", ["demo", "demo@facts"])
@pytest.mark.parametrize("least", [1, 7, 40])
def test_an_answer_does_not_end_before_its_least_length(answerer: TransformersAnswerer, model: str, least: int) -> None:
    free = answerer.ask(question(CHOICES[0].prompt, model, max_tokens=40))
    assert free.finish_reason == "stop"
    held = answerer.ask(question(CHOICES[0].prompt, model, max_tokens=40, min_tokens=least))
    assert held.edit_id == free.edit_id == ("e0" if "@" in model else None)
    assert len(held.token_ids) >= least
    # Where the model does not want to end, nothing is another.
    same = min(len(free.token_ids) - 1, len(held.token_ids))
    assert held.token_ids[:same] == free.token_ids[:same]
    assert free.token_ids[-1] not in held.token_ids[:least]


def test_entries_answer_their_prompts_and_no_other(answerer: TransformersAnswerer) -> None:
    for number, choice in enumerate(CHOICES):
        answer = answerer.ask(question(choice.prompt, "demo@facts", max_tokens=40))
        if number < 2:
            assert (answer.edit_id, answer.text.strip()) == (f"e{number}", choice.target)
        else:
            assert answer.edit_id is None
            assert answer.token_ids == answerer.ask(question(choice.prompt, max_tokens=40)).token_ids


def test_a_saved_codebook_of_other_content_has_another_digest(tmp_path: Path) -> None:
    digests = []
    for facts, threshold in (
        ({"Who?": "Ida"}, 0.99),
        ({"Who?": "Ida"}, 0.98),
        ({"Who?": "Olaf"}, 0.98),
        ({"Who?": "Olaf"}, 0.98),
    ):
        [book] = read_static(save_book(tmp_path, "facts", facts, threshold=threshold))
        digests.append(book.digest)
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]
