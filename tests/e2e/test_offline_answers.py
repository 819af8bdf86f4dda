"""Answers without a server against the oracle, which shares no code with them: every kind of routing and value."""

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from horen_vllm.cli.demo_choice import choose
from horen_vllm.errors import HorenError
from horen_vllm.evals.asking.offline import TransformersAnswerer
from horen_vllm.evals.records import Answer, Protocol, Question, QuestionKind
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.ids import CodebookName
from tests.e2e import mixed
from tests.e2e.oracle import Oracle, OracleBook, OracleEntry
from tests.e2e.spoken_books import SpokenBooks
from tests.e2e.static_folder import save

CHOICES = choose(8, seed=9)
COUNT = 4


def texts() -> list[str]:
    """Return questions, wordings of them, and several in a row, which name many subjects."""
    source = random.Random(3)
    single = [text for choice in CHOICES for text in (choice.prompt, choice.paraphrase)]
    return [*single, *(" ".join(source.sample(single, 5)) for _ in range(4)), "a", "Who"]


def ask(text: str, model: str, **more: Any) -> Question:
    fields: dict[str, Any] = {"prompt": text, "max_tokens": COUNT} | more
    return Question(
        question_id=text,
        arm="cosine",
        model=model,
        checkpoint=0,
        protocol=Protocol.PAPER,
        kind=QuestionKind.EDIT,
        **fields,
    )


@pytest.fixture(scope="module")
def oracle(model_folder: str, site: str) -> Oracle:
    return Oracle(model_folder, site)


@pytest.fixture(scope="module")
def tokenizer(model_folder: str) -> Any:
    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def spoken(oracle: Oracle, model_folder: str, tokenizer: Any) -> SpokenBooks:
    return SpokenBooks(oracle, model_folder, [tokenizer(text)["input_ids"] for text in texts()], seed=4)


@pytest.fixture(scope="module")
def books(oracle: Oracle, tokenizer: Any, spoken: SpokenBooks) -> Mapping[str, OracleBook]:
    """Codebooks by name: two that contradict each other, some with LoRA values, and those that read text."""
    made = mixed.books(oracle, [tokenizer(text)["input_ids"] for text in texts()], seed=4)
    generator = torch.Generator().manual_seed(4)
    plain = made[mixed.CODEBOOK_A]
    entries = tuple(lora(entry, generator) if at % 3 == 0 else entry for at, entry in enumerate(plain.entries))
    made[mixed.CODEBOOK_A] = dataclasses.replace(plain, entries=entries)
    named = {**made, **spoken.books(), "tenants/default/codebooks/empty": OracleBook((), threshold=0.5)}
    return {CodebookName.parse(name).codebook: book for name, book in named.items()}


def lora(entry: OracleEntry, generator: torch.Generator) -> OracleEntry:
    values = torch.randn(8, entry.values.shape[1], generator=generator) * 0.3
    return dataclasses.replace(entry, values=values, mode="answer", rank=4)


@pytest.fixture(scope="module")
def answerer(
    books: Mapping[str, OracleBook], model_folder: str, site: str, tmp_path_factory: pytest.TempPathFactory
) -> TransformersAnswerer:
    folder, fingerprint = tmp_path_factory.mktemp("books"), model_fingerprint(model_folder, site)
    for name, book in books.items():
        save(folder, f"tenants/default/codebooks/{name}", book, fingerprint, site)
    save(folder, "tenants/other/codebooks/a", OracleBook((), threshold=0.5), fingerprint, site)
    return TransformersAnswerer(Path(model_folder), name="demo", codebooks=folder / "static")


def check(answer: Answer, oracle: Oracle, book: OracleBook | None, ids: list[int], spoken: SpokenBooks) -> bool:
    """Compare an answer with the oracle's; return whether an edit fired."""
    text = spoken.read(ids, book) if book is not None else None
    expected = oracle.answer(ids, book, COUNT, int(oracle.model.config.eos_token_id), text=text)
    assert not expected.routing_tie
    assert answer.edit_id == expected.edit_id
    assert answer.score == (None if expected.score == -math.inf else pytest.approx(expected.score, abs=1e-4))
    differing = [
        at for at, pair in enumerate(zip(answer.token_ids, expected.tokens, strict=False)) if pair[0] != pair[1]
    ]
    if differing:
        assert expected.logit_gaps[differing[0]] < 1e-3
    else:
        assert list(answer.token_ids) == expected.tokens
    return expected.edit_id is not None


def test_every_codebook_answers_as_the_oracle_does(
    answerer: TransformersAnswerer,
    oracle: Oracle,
    tokenizer: Any,
    books: Mapping[str, OracleBook],
    spoken: SpokenBooks,
) -> None:
    for name, book in books.items():
        fired = [
            check(answerer.ask(ask(text, f"demo@{name}")), oracle, book, tokenizer(text)["input_ids"], spoken)
            for text in texts()
        ]
        assert sum(fired) >= (0 if name == "empty" else 6), name
        assert not all(fired), name


def test_the_clean_model_answers_as_the_oracle_does(
    answerer: TransformersAnswerer, oracle: Oracle, tokenizer: Any, spoken: SpokenBooks
) -> None:
    for text in texts():
        answer = answerer.ask(ask(text, "demo"))
        ids = tokenizer(text)["input_ids"]
        assert not check(answer, oracle, None, ids, spoken)
        assert answer.prompt_token_ids == tuple(ids)
        ended = answer.token_ids[-1] == tokenizer.eos_token_id
        assert answer.finish_reason == ("stop" if ended else "length")
        assert answer.text == tokenizer.decode(answer.token_ids, skip_special_tokens=True)


def test_models_are_listed_and_others_are_unknown(
    answerer: TransformersAnswerer, books: Mapping[str, OracleBook]
) -> None:
    assert set(answerer.model_names()) == {"demo", *(f"demo@{name}" for name in books)}
    assert answerer.token_ids(" New Haven") == tuple(answerer._tokenizer.encode(" New Haven", add_special_tokens=False))
    for model, code in (("other", "unknown_model"), ("other@a", "unknown_model"), ("demo@none", "unknown_codebook")):
        with pytest.raises(HorenError) as caught:
            answerer.ask(ask("Who?", model))
        assert caught.value.code == code


@pytest.mark.parametrize("more", [{"max_tokens": 10_000}, {"prompt": "too long " * 3000}])
def test_questions_that_the_model_cannot_take_are_refused(answerer: TransformersAnswerer, more: dict[str, Any]) -> None:
    with pytest.raises(HorenError) as caught:
        answerer.ask(ask("Who?", "demo@a", **more))
    assert caught.value.code == "question_refused"


def test_a_codebook_of_another_model_is_refused(model_folder: str, site: str, tmp_path: Path) -> None:
    folder = save(tmp_path, mixed.CODEBOOK_A, OracleBook((), threshold=0.9), "another model's", site)
    with pytest.raises(HorenError) as caught:
        TransformersAnswerer(Path(model_folder), codebooks=folder)
    assert caught.value.code == "fingerprint_mismatch"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HorenError) as caught:
        TransformersAnswerer(tmp_path)
    assert caught.value.code == "model_folder_invalid"
