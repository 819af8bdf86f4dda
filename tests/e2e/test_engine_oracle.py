"""The engine against the oracle, token by token, under mixed load (fp32, V1 runner, CPU)."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import mixed, rpc
from tests.e2e.engines import engine
from tests.e2e.oracle import Oracle, OracleBook
from tests.e2e.spoken_books import GRACE, SpokenBooks

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def oracle(model_folder: str, site: str) -> Oracle:
    return Oracle(model_folder, site)


@pytest.fixture(scope="module")
def eager(model_folder: str, site: str) -> Iterator[Any]:
    """Small chunks, prefix caching on: most prompts need several steps and share blocks."""
    options: dict[str, Any] = {"enforce_eager": True, "max_num_batched_tokens": 32, "enable_prefix_caching": True}
    with engine(model_folder, site, dtype="float32", **options) as llm:
        yield llm


def check_mixed_load(llm: Any, oracle: Oracle, folder: Path, seed: int) -> None:
    texts = mixed.prompts(seed)
    by_name = mixed.books(oracle, texts, seed)
    for name, book in by_name.items():
        rpc.apply_book(llm, name, book, folder)
    requests = mixed.cases(texts, seed)
    served = mixed.serve(llm, requests)
    mixed.compare(oracle, served, requests, by_name).check()
    assert rpc.call(llm, "horen_status", {})["live_requests"] == 0


def test_eager_with_small_chunks_and_prefix_cache(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    check_mixed_load(eager, oracle, tmp_path, seed=1)


def test_spaces_anchors_masks_and_radii_under_mixed_load(
    eager: Any, oracle: Oracle, model_folder: str, tmp_path: Path
) -> None:
    """Most prompts are chunked, and some name more subjects than a request has room for."""
    texts = mixed.prompts(seed=11) + mixed.prompts(seed=12)
    spoken = SpokenBooks(oracle, model_folder, texts, seed=11)
    by_name = spoken.books()
    for name, book in by_name.items():
        rpc.apply_book(eager, name, book, tmp_path)
    ratios = {name: book.ratio for name, book in by_name.items()}
    source = random.Random(11)
    short = [text for text in texts if len(text) <= 40]
    crowded = [[token for text in source.sample(short, 4) for token in text] for _ in range(12)]
    asked = [(text, name) for text in (*texts, *crowded) for name in (None, *by_name)]
    requests = [mixed.Case(text, name, 5, ratios.get(name or "", 0.6)) for text, name in asked]
    source.shuffle(requests)
    served = mixed.serve(eager, requests)
    verdict = mixed.compare(oracle, served, requests, by_name, read=spoken.read)
    verdict.check(matches=0.3)
    decided = [output.outputs[0].horen for output in served]
    for name, book in by_name.items():
        anchored = {entry.edit_id for entry in book.entries if entry.anchors}
        fired = [it["edit_id"] for it in decided if it and it["codebook"] == name and it["edit_id"]]
        assert len(fired) >= 8, name
        assert name == GRACE or anchored & set(fired)
    assert any("left_out" in it for it in decided if it)
    for name in by_name:
        rpc.drop(eager, name)


def test_a_second_turn_never_reads_an_edited_answer_from_the_cache(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    """Turn 2's prompt holds turn 1's edited answer; its KV must be clean again."""
    texts = [text for text in mixed.prompts(seed=2) if len(text) >= 31]
    by_name = mixed.books(oracle, texts, seed=2)
    for name, book in by_name.items():
        rpc.apply_book(eager, name, book, tmp_path)
    first = [mixed.Case(text, name, 40) for text in texts for name in by_name]
    answers = [list(output.outputs[0].token_ids) for output in mixed.serve(eager, first)]
    second = [
        mixed.Case([*case.prompt, *answer, 20, 21, 22], codebook, 5)
        for case, answer in zip(first, answers, strict=True)
        for codebook in (None, *by_name)
    ]
    verdict = mixed.compare(oracle, mixed.serve(eager, second), second, by_name)
    verdict.check(matches=0.0)


def test_an_empty_codebook_and_an_unknown_one_leave_the_model_clean(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    empty = {"tenants/default/codebooks/empty": OracleBook((), threshold=0.5)}
    for name, book in empty.items():
        rpc.apply_book(eager, name, book, tmp_path)
    requests = [mixed.Case(text, name, 5) for text in mixed.prompts(3) for name in empty]
    verdict = mixed.compare(oracle, mixed.serve(eager, requests), requests, empty)
    verdict.check(matches=0.0)


def test_updates_move_from_revision_to_revision_and_refuse_a_gap(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    texts = mixed.prompts(4)
    books = mixed.books(oracle, texts, 4)
    name, book = mixed.CODEBOOK_A, books[mixed.CODEBOOK_A]
    rpc.apply_book(eager, name, book, tmp_path, revision=7)
    gone = tuple(entry.edit_id for entry in book.entries[1:])
    left = {name: dataclasses.replace(book, entries=book.entries[:1])}
    change: dict[str, Any] = {"added": (), "removed": gone, "base_revision": 7, "revision": 8}
    late = rpc.stage(eager, name, left[name], tmp_path, **change)
    rpc.apply_book(eager, name, left[name], tmp_path, **change)
    with pytest.raises(rpc.RefusedError, match="revision_gap"):
        rpc.flip(eager, late)
    requests = [mixed.Case(text, name, 5) for text in texts]
    verdict = mixed.compare(oracle, mixed.serve(eager, requests), requests, left, revision=8)
    verdict.check(matches=0.0)


def test_an_update_is_not_visible_until_it_is_flipped(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    texts = mixed.prompts(6)
    books = mixed.books(oracle, texts, 6)
    name, book = mixed.CODEBOOK_A, books[mixed.CODEBOOK_A]
    rpc.apply_book(eager, name, OracleBook((), threshold=0.9), tmp_path, revision=1)
    staged = rpc.stage(eager, name, book, tmp_path, base_revision=1, revision=2)
    rpc.await_staged(eager, staged)
    requests = [mixed.Case(text, name, 5) for text in texts]
    before = {name: OracleBook((), threshold=0.9)}
    mixed.compare(oracle, mixed.serve(eager, requests), requests, before).check(matches=0.0)
    rpc.flip(eager, staged)
    mixed.compare(oracle, mixed.serve(eager, requests), requests, books, revision=2).check()


def test_a_corrupt_pack_is_refused_and_the_codebook_stays(eager: Any, oracle: Oracle, tmp_path: Path) -> None:
    texts = mixed.prompts(5)
    books = mixed.books(oracle, texts, 5)
    name = mixed.CODEBOOK_B
    rpc.apply_book(eager, name, books[name], tmp_path / "first", revision=3)
    with pytest.raises(rpc.RefusedError, match="pack_unreadable"):
        rpc.apply_book(eager, name, books[mixed.CODEBOOK_A], tmp_path / "second", revision=4, spoil=True)
    requests = [mixed.Case(text, name, 5) for text in texts]
    mixed.compare(oracle, mixed.serve(eager, requests), requests, books, revision=3).check()
